// The page of one key.

import { chart } from "./chart.js";
import { now } from "./clock.js";
import {
  addressed,
  byId,
  cell,
  clockTime,
  foreign,
  heldCell,
  heldFor,
  holderOf,
  isWaiting,
  left,
  leftCell,
  number,
  overOf,
  partTag,
  placeOf,
  shortened,
  stateText,
  store,
  who,
} from "./common.js";
import { watch } from "./countdown.js";
import { Live } from "./live.js";
import { element, patch } from "./patch.js";

const page = byId("lock-page").dataset;
const asked = new URLSearchParams(location.search);
const key = asked.get("key");
const part = asked.get("part") || "";

const LONGEST_RELEASE = 10_000; // milliseconds

const WORDS = {
  acquired: "acquired",
  contended: "contended",
  released: "released",
  lost: "lost",
  force_released: "released by hand",
  ended: "no longer held",
};

function drawHolders(data) {
  const rows = data.holders.map((holder) =>
    element(
      "tr",
      { key: holder.fencing_token },
      cell(null, holderOf(holder, page.taskUrl)),
      cell("locks-wide", placeOf(holder)),
      heldCell(holder),
      leftCell(holder),
      cell("locks-wide", `${holder.permits} of ${data.limit}`),
      cell("locks-wide locks-figure", String(holder.fencing_token)),
      cell(null, releaseButton(holder)),
    ),
  );
  const text = data.waiting ? "No holder; the first in line may acquire the key." : "This key is not held.";
  const message = element("tr", {}, element("td", { class: "empty-table-message", colspan: 7 }, text));
  patch(byId("lock-holders"), rows.length ? rows : message);
  const parts = data.parts.map((each) => [" ", element("a", { key: each, href: addressed(key, each) }, partTag(each))]);
  patch(byId("lock-parts"), parts.length ? ["Parts of this key are held as well:", parts] : "");
}

function drawFigures(data) {
  const oldest = data.holders[0];
  const next = data.holders.reduce((first, holder) => (first && first.until < holder.until ? first : holder), null);
  const waiting = data.holders.filter(isWaiting).length;
  const of = data.limit > 1 ? `${number(waiting)} not started` : "not started";
  const held = data.limit > 1 ? `${data.permits} of ${data.limit}` : data.permits ? "yes" : "no";
  patch(byId("lock-held"), held, waiting ? [" ", element("span", { class: "locks-note-of-figure" }, of)] : null);
  patch(byId("lock-held-label"), data.limit > 1 ? "Permits held" : "Held");
  patch(byId("lock-waiting"), number(data.waiting));
  patch(byId("lock-for"), oldest ? heldFor(oldest) : "—");
  patch(byId("lock-left"), next ? left(next, overOf(next)) : "—");
}

function drawLine(data) {
  const line = data.line.map((one) =>
    element("li", { key: one.task_id ?? one.owner }, one.task ? foreign(one.task) : "", " ", who(one, page.taskUrl, false)),
  );
  patch(byId("lock-line"), line);
  const more = data.waiting - data.line.length;
  const known = data.waiting === 0 ? "No one waits." : more > 0 ? `${number(more)} more wait; this page does not name them.` : "";
  patch(byId("lock-line-note"), known);
}

/** Return names for the entries, newest first. A repeated refusal has the name of the first one. */
function namesOf(entries) {
  const count = new Map();
  const name = (entry) => {
    const kind = `${entry.kind} ${entry.fencing_token ?? ""}`;
    count.set(kind, (count.get(kind) ?? 0) + 1);
    return `${kind} ${count.get(kind)}`;
  };
  return [...entries].reverse().map(name).reverse();
}

function drawHistory(data) {
  const { entries, since, watched_every: every, heard } = data;
  const names = namesOf(entries);
  const rows = entries.map((entry, i) => {
    const times = entry.times > 1 ? ` × ${entry.times}` : "";
    const what = element("span", { class: `locks-kind locks-kind-${entry.kind}` }, (WORDS[entry.kind] || entry.kind) + times);
    const seen = entry.seen ? "seen in the store" : "";
    return element(
      "tr",
      { key: names[i] },
      element("td", { title: new Date(entry.at).toISOString() }, clockTime(entry.at)),
      cell(null, what),
      cell(null, entry.owner || entry.task_id ? who(entry, page.taskUrl) : "—"),
      cell(null, foreign([entry.reason, seen].filter(Boolean).join(" · ") || "—")),
      cell("locks-wide", entry.fencing_token === null ? "—" : String(entry.fencing_token)),
    );
  });
  const none = "Nothing is recorded of this key.";
  patch(byId("lock-history"), rows.length ? rows : element("tr", {}, element("td", { class: "empty-table-message", colspan: 5 }, none)));
  const known = since === null ? "" : `Known since ${clockTime(since)}. `;
  const reads = every ? `Flower reads the store every ${every} s and while this page is open.` : "Flower reads the store while this page is open.";
  const events = heard
    ? `It has received the workers' events since ${clockTime(heard)}.`
    : "It has received no events, so what happens between two reads is missing, and so are the reasons: set locks_events in the workers.";
  patch(byId("lock-source"), `${known}${reads} ${events}`);
}

/** The chart ends at the current time, so it would change with each answer. It is drawn after a change, and every 10 s. */
let charted = null;
function drawChart(history) {
  const samples = history.samples.map(([begin, end, ...rest], i) => (i + 1 < history.samples.length ? [begin, end, ...rest] : [begin, ...rest]));
  const drawn = JSON.stringify([samples, history.contended, Math.floor(now() / 10_000)]);
  if (drawn === charted) return;
  charted = drawn;
  patch(byId("lock-chart"), chart(history, now()));
}

const live = new Live(
  () => page.dataUrl + addressed(key, part),
  (data) => {
    patch(byId("lock-key"), shortened(data.key));
    drawHolders(data);
    drawFigures(data);
    drawLine(data);
    drawHistory(data.history);
    drawChart(data.history);
    drawDialog(data);
  },
);

// Release: a dialog asks first, and the answer names the holder.

let holders = []; // at the last read
let chosen = null; // the lease that the dialog names, and the only one that it releases

function releaseButton(holder) {
  if (!page.releaseUrl) return null; // this Flower refuses to release
  return element("button", { type: "button", class: "btn btn-sm btn-outline-danger", "data-token": holder.fencing_token }, "Release…");
}

const EFFECT =
  "The next in line gets the key immediately. The holder loses its lease and is stopped: within 100 ms on Redis and PostgreSQL, at its next renewal on other stores; " +
  "until then both may be at work.";
const EFFECT_ON_WAITING =
  "The next in line gets the key immediately. The task's message stays in its queue: when a worker takes it, the task asks for the key again.";
const EFFECT_ON_LASTING = "The next in line gets the key immediately. No run depends on this lease.";

function ask(holder) {
  const isRun = !isWaiting(holder) && holder.state !== "lasting";
  chosen = holder;
  patch(byId("lock-dialog-owner"), shortened(holder.owner));
  patch(byId("lock-dialog-token"), String(holder.fencing_token));
  patch(byId("lock-dialog-state"), isRun ? "" : ["It is ", stateText(holder), "."]);
  patch(byId("lock-dialog-effect"), isRun ? EFFECT : isWaiting(holder) ? EFFECT_ON_WAITING : EFFECT_ON_LASTING);
  byId("lock-dialog-all").checked = false;
  setEnded(false);
  byId("lock-dialog").showModal();
}

/** Close the question if the lease that the dialog names has ended. */
function drawDialog(data) {
  if (!page.releaseUrl) return;
  holders = data.holders;
  const namesAll = data.holders.reduce((sum, holder) => sum + holder.permits, 0) >= data.permits;
  const isThere = data.holders.some((holder) => holder.fencing_token === chosen?.fencing_token);
  if (byId("lock-dialog").open && chosen && namesAll && !isThere) setEnded(true);
}

function setEnded(isEnded) {
  const button = byId("lock-dialog-release");
  if (isEnded && document.activeElement === button) byId("lock-dialog-cancel").focus();
  button.hidden = isEnded;
  byId("lock-dialog-effect").hidden = isEnded;
  byId("lock-dialog-owned").hidden = isEnded || chosen.task !== null; // offered for owners outside tasks
  patch(byId("lock-dialog-ended"), isEnded ? "This lease has ended meanwhile. Nothing was released." : "");
  patch(byId("lock-dialog-cancel"), isEnded ? "Close" : "Keep it");
}

function report(good, text) {
  byId("lock-done").textContent = text;
  byId("lock-done").className = `alert locks-alert ${good ? "alert-success" : "alert-warning"}`;
}

async function release() {
  const { fencing_token: token, owner } = chosen;
  const isOwned = byId("lock-dialog-all").checked;
  const lease = { key, ...(part && { part }), fencing_token: token };
  byId("lock-dialog").close();
  try {
    const answer = await fetch(isOwned ? page.releaseOwnedUrl : page.releaseUrl, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-XSRFToken": page.xsrf },
      body: JSON.stringify({ ...(isOwned ? { owner } : lease), ...(store && { store }) }),
      redirect: "error",
      signal: AbortSignal.timeout(LONGEST_RELEASE),
    });
    const data = await answer.json();
    if (!answer.ok) report(false, data.error);
    else if (data.released && isOwned) report(true, `Released ${data.released === 1 ? "1 lease" : `${number(data.released)} leases`} of ${shortened(owner)}.`);
    else if (data.released) report(true, `Released. It was held by ${shortened(data.owner)}.`);
    else report(false, "That lease had ended already: nothing was released.");
  } catch {
    report(false, "Flower did not answer. The table below shows whether the lease is still held.");
  }
  live.now();
}

if (page.releaseUrl) {
  byId("lock-holders").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-token]");
    const holder = button && holders.find((one) => String(one.fencing_token) === button.dataset.token);
    if (holder) ask(holder);
  });
  byId("lock-dialog-cancel").addEventListener("click", () => byId("lock-dialog").close());
  byId("lock-dialog-release").addEventListener("click", release);
  byId("lock-dialog").addEventListener("close", () => {
    // The button that opened the dialog would get the focus, but may be gone.
    const focused = document.activeElement;
    if (focused === document.body || byId("lock-dialog").contains(focused)) byId("lock-holders").closest("section").focus({ preventScroll: true });
  });
}

patch(byId("lock-key"), shortened(key));
patch(byId("lock-part"), partTag(part), part ? element("a", { href: addressed(key) }, "the key itself") : null);
for (const id of ["lock-holders", "lock-for", "lock-left"]) watch(byId(id));
live.now();
