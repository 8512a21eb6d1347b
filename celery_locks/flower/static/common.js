// What both pages of locks share: asking for data, saying how it went, and writing what it says.
// All text of others goes into the page as text, never as HTML.

const POLL = 2000;
const LONGEST_TEXT = 300;

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function shortened(text) {
  const letters = Array.from(text.slice(0, 2 * LONGEST_TEXT + 2));
  return letters.length > LONGEST_TEXT ? letters.slice(0, LONGEST_TEXT).join("") + "…" : text;
}

/** Text of somebody else's: kept apart, so that it can't turn the direction of what stands around it. */
export function foreign(text, className) {
  return element("bdi", { class: className, title: shortened(text) }, shortened(text));
}

export function duration(milliseconds) {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const number = (value) => value.toLocaleString("en");

export function clockTime(milliseconds) {
  const date = new Date(milliseconds);
  const time = date.toLocaleTimeString([], { hour12: false });
  return Date.now() - milliseconds > 20 * 3600e3 ? `${date.toLocaleDateString()} ${time}` : time;
}

/** A task's name with a link to Flower's page of it, or the holder's own name. */
export function who(one, taskUrl, named = true) {
  if (!one.task_id) return foreign(one.owner || "a waiter without a name");
  const link = element("a", { href: taskUrl.replace(/TASK$/, encodeURIComponent(one.task_id)) }, foreign(one.task_id));
  return named && one.task ? element("span", {}, foreign(one.task, "locks-name"), document.createElement("br"), link) : link;
}

/** Moments of the data are by Flower's clock: how far it is from the clock of this page. */
let clockOffset = 0;
export const serverNow = () => performance.now() + clockOffset;

function remaining(until) {
  const left = Number(until) - serverNow();
  return left > 0 ? duration(left) : "over";
}

/** Asks for data again and again while the page is seen, and says how it goes. */
export class Live {
  constructor(url, show, failed = () => {}) {
    this.url = url; // a function
    this.show = show;
    this.failed = failed;
    this.last = null;
    this.asked = 0;
    document.addEventListener("visibilitychange", () => document.hidden || this.now());
  }

  /** Asks at once; an answer to an earlier question is no longer waited for. */
  async now() {
    clearTimeout(this.timer);
    const asked = (this.asked += 1);
    try {
      const answer = await fetch(this.url(), { headers: { Accept: "application/json" }, redirect: "error" });
      const data = await answer.json();
      if (asked !== this.asked) return;
      if (!answer.ok) throw new Error(data.error);
      clockOffset = Number(answer.headers.get("X-Locks-Now")) - performance.now();
      this.last = Date.now();
      this.show(data);
      this.say(true, "Live");
    } catch (error) {
      if (asked !== this.asked) return;
      this.say(false, "Not live", this.reason(error));
      this.failed();
    }
    if (!document.hidden) this.timer = setTimeout(() => this.now(), POLL);
  }

  reason(error) {
    const known = error instanceof Error && !(error instanceof TypeError) && !(error instanceof SyntaxError);
    const text = known ? error.message : "Flower can't be reached, or you are no longer logged in to it.";
    const age = this.last === null ? "Nothing is known of the locks." : `What is shown is of ${clockTime(this.last)}.`;
    return `${text}\n${age} This page goes on trying.`;
  }

  say(good, text, problem = "") {
    byId("locks-status").textContent = text;
    byId("locks-dot").className = `status-dot ${good ? "status-dot-live" : "status-dot-error"}`;
    byId("locks-alert").textContent = problem;
    byId("locks-alert").classList.toggle("d-none", good);
    document.querySelectorAll(".locks-table, .metric-grid, .locks-line, .locks-chart").forEach((part) => {
      part.classList.toggle("locks-stale", !good);
    });
  }
}

/** What moves by itself between two answers: for how long a lease is held, and how much is left of it. */
export class Countdown {
  constructor() {
    this.longest = new Map(); // by key and fencing token: the ttl is not known, but the longest that was left is near it
    setInterval(() => this.tick(), 250);
  }

  heldFor(since) {
    return element("span", { "data-since": since }, duration(serverNow() - since));
  }

  left(name, until) {
    const bar = element("div", { class: "locks-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, element("span"));
    const text = element("span");
    const whole = element("div", { "data-until": until, "data-name": name }, text, bar);
    this.draw(whole);
    return whole;
  }

  /** Without a bar. */
  leftOnly(until) {
    return element("span", { "data-left": until }, remaining(until));
  }

  draw(whole) {
    const left = Number(whole.dataset.until) - serverNow();
    const longest = Math.max(left, this.longest.get(whole.dataset.name) || 1);
    this.longest.set(whole.dataset.name, longest);
    const [text, bar] = whole.children;
    const share = Math.max(0, Math.min(100, (100 * left) / longest));
    text.textContent = remaining(whole.dataset.until);
    bar.firstChild.style.width = `${share}%`;
    bar.setAttribute("aria-valuenow", Math.round(share));
    bar.className = `locks-bar ${left <= 0 ? "locks-over" : share < 34 ? "locks-near" : ""}`;
  }

  tick() {
    document.querySelectorAll("[data-since]").forEach((one) => {
      one.textContent = duration(serverNow() - Number(one.dataset.since));
    });
    document.querySelectorAll("[data-left]").forEach((one) => {
      one.textContent = remaining(one.dataset.left);
    });
    document.querySelectorAll("[data-until]").forEach((one) => this.draw(one));
  }

  /** Forgets what is shown no more. */
  keep(names) {
    for (const name of this.longest.keys()) if (!names.has(name)) this.longest.delete(name);
  }
}
