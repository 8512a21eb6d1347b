// Elements that both pages of locks have. Keys and names go into the page as text, never as HTML.

import { element } from "./patch.js";

const LONGEST_TEXT = 300;

export const byId = (id) => document.getElementById(id);
export const number = (value) => value.toLocaleString("en");

export function shortened(text) {
  if (text.length <= LONGEST_TEXT) return text;
  const letters = Array.from(text.slice(0, 2 * LONGEST_TEXT + 2));
  return letters.length > LONGEST_TEXT ? letters.slice(0, LONGEST_TEXT).join("") + "…" : text;
}

/** Return a key or a name in an element of its own, so that it can't change the direction of the text around it. */
export function foreign(text, className) {
  return element("bdi", { class: className, title: shortened(text) }, shortened(text));
}

export function clockTime(milliseconds) {
  const date = new Date(milliseconds);
  const time = date.toLocaleTimeString([], { hour12: false });
  return Date.now() - milliseconds > 20 * 3600e3 ? `${date.toLocaleDateString()} ${time}` : time;
}

/** Return for how long a lease has been held, by `one.since`. */
export const heldFor = (one) => element("span", { key: "since", class: "locks-moving", moves: { kind: "since", of: one } });

/** Return how much time a lease has left, by `one.until`, or the given word after its end. */
export const left = (one, over) => element("span", { key: "until", class: "locks-moving", moves: { kind: "until", of: one, over } });

/** Return a bar of the time that a lease has left. Each fencing token has a bar of its own. */
function bar(holder, className) {
  const filling = element("span", { class: "locks-moving", moves: { kind: "bar", of: holder } });
  return element("div", { key: holder.fencing_token, class: `locks-bar ${className}`.trim(), "aria-hidden": "true" }, filling);
}

/** Return the word for a lease without time left. */
export const overOf = (holder) => (holder.state === "dispatched" ? "due" : "over");

/** Return a cell of a table. */
export const cell = (className, ...content) => element("td", { class: className }, ...content);

/** The name of the store that the page shows; empty for the default one. */
export const store = new URLSearchParams(location.search).get("store") || "";

/** Return the parameters that name a lock in an address. */
export function addressed(key, part) {
  const parts = { ...(part && { part }), ...(store && { store }) };
  return `?key=${encodeURIComponent(key)}${Object.entries(parts).map(([name, text]) => `&${name}=${encodeURIComponent(text)}`).join("")}`;
}

const PARTS = {
  call: "The lease that the call holds until its run starts, with until_and_while_executing. The run then acquires the key itself.",
  run: "The lease that a run holds against a second copy of its message, with until_executing and until_expired.",
};

/** Return a tag for a part of a key; nothing for the key itself. */
export function partTag(part) {
  return part ? element("span", { class: "locks-tag", title: PARTS[part.split(":")[0]] }, shortened(part)) : null;
}

/** Return a task's name with a link to Flower's page of it, or the holder's own name. */
export function who(one, taskUrl, named = true) {
  if (!one.task_id) return foreign(one.owner || "a waiter without a name");
  const link = element("a", { href: taskUrl.replace(/TASK$/, () => encodeURIComponent(one.task_id)) }, foreign(one.task_id));
  return named && one.task ? element("span", {}, foreign(one.task, "locks-name"), element("br"), link) : link;
}

/** Return whether a holder is a task that no worker has started. Its message still waits in a queue. */
export const isWaiting = (holder) => holder.state === "dispatched" || holder.state === "called";

const STATES = {
  dispatched: "The task's turn came, and its message was sent. No worker has started it yet.",
  called: "The call acquired the key, or the task retries and keeps it. Its message waits, and no worker has started it.",
  lasting: "The lease lasts until it expires, whether its task has run or not (until_expired).",
};

/** Return why a holder is not a running task. */
export function stateText(holder) {
  if (holder.state === "lasting") return "kept until it expires";
  if (holder.state === "called") return "called, not started";
  return holder.queue ? ["dispatched to queue ", element("bdi", {}, shortened(holder.queue)), ", not started"] : "dispatched, not started";
}

/** Return a badge that states why a holder is not a running task; nothing for other holders. */
function badge(holder, className = "") {
  if (!(holder.state in STATES)) return null;
  return element("span", { class: `locks-badge ${className}`.trim(), title: STATES[holder.state] }, stateText(holder));
}

/** Return the holder. A narrow page has no column for the worker, so the state is added there. */
export function holderOf(holder, taskUrl) {
  const state = badge(holder, "locks-narrow");
  return [who(holder, taskUrl), state && element("div", {}, state)];
}

/** Return the worker on which a holder runs, or why it does not run. */
export function placeOf(holder) {
  return badge(holder) || (holder.worker ? foreign(holder.worker) : "—");
}

/** Return a cell that shows for how long a lease has been held, or since when a task waits for its start. */
export function heldCell(holder) {
  const since = { dispatched: "since its turn came", called: "since the call or the retry", lasting: "since the call" }[holder.state];
  return cell("locks-figure", heldFor(holder), since && element("div", { class: "locks-muted" }, since));
}

/** Return a cell that shows the time that a lease has left, or when a dispatched task is dispatched again. */
export function leftCell(holder) {
  const isDispatched = holder.state === "dispatched";
  const until = { dispatched: "until it is dispatched again", called: "until the call's lease ends", lasting: "until it expires" }[holder.state];
  return cell(
    "locks-figure",
    left(holder, overOf(holder)),
    bar(holder, isDispatched ? "locks-dispatched" : ""),
    until && element("div", { class: "locks-muted" }, until),
  );
}
