// Polls while the page is visible, and shows whether its data is current.

import { ageOf, setClock, stamp, startClock, stopClock } from "./clock.js";
import { drawAnswer, drawSeen } from "./countdown.js";
import { byId, clockTime } from "./common.js";
import { patch } from "./patch.js";

const POLL = 2000; // milliseconds between two requests
const PATIENCE = 4000; // milliseconds for an answer, to its last byte
const FRESH = 4800; // the greatest age of live data: checked every second, no data is shown as live after 6000
const SLOW = 2000; // a slower answer is reported

export class Live {
  /**
   * @param url Returns the address to request.
   * @param show Shows an answer. An unchanged answer is not shown again.
   * @param failed Called without an answer.
   */
  constructor(url, show, failed = () => {}) {
    this.url = url;
    this.show = show;
    this.failed = failed;
    this.shown = null; // url, ETag and moment of the data on the page
    this.asking = null; // the current request
    this.problem = null;
    this.timer = null;
    setInterval(() => this.judge(), 1000);
    // When the page becomes visible again: show the age of its data, then request new data.
    for (const event of ["visibilitychange", "resume"]) document.addEventListener(event, () => this.back());
    for (const event of ["pageshow", "focus", "online"]) addEventListener(event, () => this.back());
  }

  /** React when the page is shown or hidden, or the computer wakes up. */
  back() {
    this.judge();
    if (document.hidden) this.rest();
    else if (this.asking === null ? this.timer === null : ageOf(this.asking.at) > SLOW) this.now();
  }

  rest() {
    clearTimeout(this.timer);
    this.timer = null;
  }

  /** Request now. An earlier request is cancelled. */
  async now() {
    this.rest();
    this.asking?.stop.abort();
    const asking = { at: stamp(), stop: new AbortController(), timedOut: false };
    this.asking = asking;
    const patience = setTimeout(() => {
      asking.timedOut = true;
      asking.stop.abort();
    }, PATIENCE);
    let data = null;
    try {
      data = await this.ask(asking);
    } catch (error) {
      if (this.asking === asking) this.problem = asking.timedOut ? "Flower does not answer." : reasonOf(error);
    }
    clearTimeout(patience);
    if (this.asking !== asking) return;
    this.asking = null;
    if (!document.hidden) this.timer = setTimeout(() => this.now(), Math.max(0, POLL - ageOf(asking.at)));
    if (data !== null) this.draw(data);
    if (this.problem !== null) this.failed();
    this.judge();
    if (this.problem === null) drawAnswer();
  }

  draw(data) {
    try {
      this.show(data);
    } catch (error) {
      this.problem = "This page can't show Flower's answer: reload it.";
      this.shown.tag = null;
      reportError(error);
    }
  }

  /** Return the data of an answer; null if nothing has changed. */
  async ask(asking) {
    const url = this.url();
    const headers = { Accept: "application/json" };
    if (this.shown?.url === url && this.shown.tag) headers["If-None-Match"] = this.shown.tag;
    const answer = await fetch(url, { headers, cache: "no-store", redirect: "error", signal: asking.stop.signal });
    const data = answer.status === 304 ? null : await answer.json();
    if (this.asking !== asking) return null;
    if (data !== null && !answer.ok) throw new Refused(data.error);
    const served = Number(answer.headers.get("X-Locks-Now"));
    if (served === this.shown?.served && url === this.shown.url) throw new Refused("A cache between this page and Flower repeats an old answer.");
    setClock(served);
    this.shown = { url, served, tag: answer.headers.get("ETag"), at: asking.at };
    this.problem = null;
    return data;
  }

  /** Show how old the page's data is. */
  judge() {
    const isFresh = this.shown !== null && ageOf(this.shown.at) < FRESH;
    const isSlow = this.asking !== null && ageOf(this.asking.at) > SLOW;
    if (document.hidden) this.say("Paused", "");
    else if (this.problem !== null) this.say("Not live", "status-dot-error", this.problem);
    else if (isFresh) this.say("Live", "status-dot-live");
    else if (this.shown === null) this.say("Connecting…", "");
    else if (isSlow) this.say("Not live", "status-dot-error", "Flower does not answer.");
    else {
      this.say("Updating…", "", null, true); // the page was hidden, or the computer slept
      if (this.asking === null) this.now();
    }
  }

  say(text, dot, problem = null, isOld = problem !== null) {
    const said = [text, problem, this.shown?.served].join("\n");
    if (said === this.said) return;
    this.said = said;
    if (isOld && this.shown !== null) stopClock(this.shown.served);
    else startClock();
    patch(byId("locks-status"), text);
    setClass(byId("locks-dot"), `status-dot ${dot}`.trim());
    const state = this.shown === null ? "Nothing is known of the locks." : `This page shows the state at ${clockTime(this.shown.at.wall)}.`;
    patch(byId("locks-alert"), problem === null ? "" : `${problem}\n${state} This page keeps trying.`);
    setClass(byId("locks-alert"), `alert alert-danger locks-alert ${problem === null ? "d-none" : ""}`.trim());
    for (const part of document.querySelectorAll(".locks-table, .metric-grid, .locks-line, .locks-chart")) {
      if (part.classList.contains("locks-stale") !== isOld) part.classList.toggle("locks-stale", isOld);
    }
    if (isOld) drawSeen();
  }
}

function setClass(node, wanted) {
  if (node.className !== wanted) node.className = wanted;
}

/** An error that Flower itself reports. */
class Refused extends Error {}

function reasonOf(error) {
  if (error instanceof Refused && error.message) return error.message;
  return "Flower can't be reached, or you are no longer logged in to it.";
}
