// What both pages of locks show in the same way. All text of others goes into the page as text, never as HTML.

import { element } from "./patch.js";

const LONGEST_TEXT = 300;

export const byId = (id) => document.getElementById(id);
export const number = (value) => value.toLocaleString("en");

export function shortened(text) {
  if (text.length <= LONGEST_TEXT) return text;
  const letters = Array.from(text.slice(0, 2 * LONGEST_TEXT + 2));
  return letters.length > LONGEST_TEXT ? letters.slice(0, LONGEST_TEXT).join("") + "…" : text;
}

/** Text of somebody else's: kept apart, so that it can't turn the direction of what stands around it. */
export function foreign(text, className) {
  return element("bdi", { class: className, title: shortened(text) }, shortened(text));
}

export function clockTime(milliseconds) {
  const date = new Date(milliseconds);
  const time = date.toLocaleTimeString([], { hour12: false });
  return Date.now() - milliseconds > 20 * 3600e3 ? `${date.toLocaleDateString()} ${time}` : time;
}

/** For how long a lease is held: of `one.since`. */
export const heldFor = (one) => element("span", { key: "since", class: "locks-moving", moves: { kind: "since", of: one } });

/** How much is left of a lease, of `one.until`, and the word for when it is over. */
export const left = (one, over) => element("span", { key: "until", class: "locks-moving", moves: { kind: "until", of: one, over } });

/** How much is left of a lease, as a bar. Another fencing token is another bar. */
function bar(holder, className) {
  const filling = element("span", { class: "locks-moving", moves: { kind: "bar", of: holder } });
  return element("div", { key: holder.fencing_token, class: `locks-bar ${className}`.trim(), "aria-hidden": "true" }, filling);
}

/** The word for when nothing is left of a lease. */
export const overOf = (holder) => (holder.state === "dispatched" ? "due" : "over");

/** A cell of a table. */
export const cell = (className, ...content) => element("td", { class: className }, ...content);

/** The name of the store that the page shows; empty for the default one. */
export const store = new URLSearchParams(location.search).get("store") || "";

/** The parameters that name a lock in an address. */
export function addressed(key, part) {
  const parts = { ...(part && { part }), ...(store && { store }) };
  return `?key=${encodeURIComponent(key)}${Object.entries(parts).map(([name, text]) => `&${name}=${encodeURIComponent(text)}`).join("")}`;
}

const PARTS = {
  call: "The lease that the call holds until its run starts, with until_and_while_executing. The run then acquires the key itself.",
  run: "The lease that a run holds against a second copy of its message, with until_executing and until_expired.",
};

/** Which lock of a key it is, where a key has several. */
export function partTag(part) {
  return part ? element("span", { class: "locks-tag", title: PARTS[part.split(":")[0]] }, shortened(part)) : null;
}

/** A task's name with a link to Flower's page of it, or the holder's own name. */
export function who(one, taskUrl, named = true) {
  if (!one.task_id) return foreign(one.owner || "a waiter without a name");
  const link = element("a", { href: taskUrl.replace(/TASK$/, () => encodeURIComponent(one.task_id)) }, foreign(one.task_id));
  return named && one.task ? element("span", {}, foreign(one.task, "locks-name"), element("br"), link) : link;
}

/** Whether a holder is a task that no worker has started: its message still waits in a queue. */
export const isWaiting = (holder) => holder.state === "dispatched" || holder.state === "called";

const STATES = {
  dispatched: "The task's turn came, and its message was sent. No worker has started it yet.",
  called: "The call acquired the key, or the task retries and keeps it. Its message waits, and no worker has started it.",
  lasting: "The lease lasts until it expires, whether its task has run or not (until_expired).",
};

/** Why a holder is no run. */
export function stateText(holder) {
  if (holder.state === "lasting") return "kept until it expires";
  if (holder.state === "called") return "called, not started";
  return holder.queue ? ["dispatched to queue ", element("bdi", {}, shortened(holder.queue)), ", not started"] : "dispatched, not started";
}

/** Why a holder is no run, as a badge; nothing for runs, and for holders that are no tasks. */
function badge(holder, className = "") {
  if (!(holder.state in STATES)) return null;
  return element("span", { class: `locks-badge ${className}`.trim(), title: STATES[holder.state] }, stateText(holder));
}

/** Who holds it. On a narrow page, which has no column for the worker, with its state. */
export function holderOf(holder, taskUrl) {
  const state = badge(holder, "locks-narrow");
  return [who(holder, taskUrl), state && element("div", {}, state)];
}

/** Where a holder runs, or why it does not. */
export function placeOf(holder) {
  return badge(holder) || (holder.worker ? foreign(holder.worker) : "—");
}

/** For how long it is held; of a task that has not started, since when it waits. */
export function heldCell(holder) {
  const since = { dispatched: "since its turn came", called: "since the call or the retry", lasting: "since the call" }[holder.state];
  return cell("locks-figure", heldFor(holder), since && element("div", { class: "locks-muted" }, since));
}

/** How much is left of the lease; of a task that was dispatched, when it is dispatched again. */
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
