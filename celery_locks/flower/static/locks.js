// The list of locks. One page of it is read at a time, and sorted by itself.

import { addressed, byId, cell, foreign, heldCell, heldFor, holderOf, isWaiting, leftCell, number, partTag, placeOf, store } from "./common.js";
import { drawSeen, watch } from "./countdown.js";
import { Live } from "./live.js";
import { element, patch } from "./patch.js";

const page = byId("locks-page").dataset;
const asked = new URLSearchParams(location.search);
const view = {
  prefix: asked.get("prefix") || "",
  after: asked.getAll("after"), // the beginnings of all pages up to this one
  count: asked.get("count") || "50",
  sort: asked.get("sort") || "",
  descending: asked.get("order") === "descending",
};
let data = null;
let drawn = new Map(); // locks and their rows, by name

const first = (lock) => lock.holders[0] || {};
const values = {
  key: (lock) => lock.key,
  task: (lock) => first(lock).task || first(lock).owner,
  worker: (lock) => first(lock).worker,
  since: (lock) => -first(lock).since,
  until: (lock) => first(lock).until,
  waiting: (lock) => lock.waiting,
  fencing_token: (lock) => first(lock).fencing_token,
};

function sorted(locks) {
  const value = values[view.sort];
  if (!value) return locks;
  const known = (lock) => {
    const found = value(lock);
    return found === undefined || found === null || Number.isNaN(found) ? null : found;
  };
  return [...locks].sort((one, other) => {
    const [a, b] = [known(one), known(other)];
    if (a === null || b === null) return (a === null) - (b === null); // locks without a value come last in both directions
    return (a < b ? -1 : a > b ? 1 : 0) * (view.descending ? -1 : 1);
  });
}

function keyLink(key, part) {
  return [element("a", { href: page.keyUrl + addressed(key, part) }, foreign(key, "locks-name")), partTag(part)];
}

const nameOf = (lock) => `${lock.part ?? ""} ${lock.key}`; // a key and a part of it are two locks

/** Return the row of a lock. It is the same row as before if only moments have changed. */
function rowOf(lock, before) {
  const known = before.get(nameOf(lock));
  if (known && isSame(known.lock, lock)) {
    known.lock.holders.forEach((holder, i) => Object.assign(holder, lock.holders[i])); // the row refers to these objects
    return known;
  }
  return { lock, row: row(lock) };
}

/** Return whether two locks differ only in moments. */
function isSame(one, other) {
  if (typeof one !== "object" || one === null || other === null) return one === other;
  const names = Object.keys(other);
  return names.length === Object.keys(one).length && names.every((name) => name === "since" || name === "until" || isSame(one[name], other[name]));
}

function row(lock) {
  const key = nameOf(lock);
  const holder = lock.holders[0];
  if (!holder) {
    const noHolder = element("td", { colspan: 3, class: "locks-muted" }, "no holder");
    const line = cell("locks-figure", number(lock.waiting));
    return element("tr", { key }, cell(null, keyLink(lock.key, lock.part)), noHolder, cell(null, "—"), line, cell("locks-wide", "—"));
  }
  const others = lock.holders.length - 1 + lock.unnamed;
  const more = others > 0 ? element("div", { class: "locks-muted" }, `and ${lock.all_counted ? "" : "at least "}${others} more · ${lock.permits} of ${lock.limit} permits`) : null;
  return element(
    "tr",
    { key },
    cell(null, keyLink(lock.key, lock.part)),
    cell(null, holderOf(holder, page.taskUrl), more),
    cell("locks-wide", placeOf(holder)),
    heldCell(holder),
    leftCell(holder),
    cell("locks-figure", number(lock.waiting)),
    cell("locks-wide locks-figure", String(holder.fencing_token)),
  );
}

/** Return a line in place of rows. If the search has a text, it links to the key of that name. */
function emptyRow(text) {
  const lookUp = view.prefix ? element("a", { href: page.keyUrl + addressed(view.prefix) }, "Look up this key.") : null;
  return element("tr", {}, element("td", { class: "empty-table-message", colspan: 7 }, `${text} `, lookUp));
}

function nothing() {
  if (data.next !== null) return emptyRow("No lock on this page is held; the next page has more.");
  return emptyRow(view.prefix ? "No key that begins with this text is held." : "No locks are held.");
}

function drawRows() {
  const rows = sorted(data.locks).map((lock) => rowOf(lock, drawn));
  drawn = new Map(rows.map((one) => [nameOf(one.lock), one]));
  patch(byId("locks-rows"), rows.length ? rows.map((one) => one.row) : nothing());
}

/** Return how many leases on this page belong to tasks that have not started. */
function notStarted() {
  const count = data.locks.flatMap((lock) => lock.holders).filter(isWaiting).length;
  const where = data.next === null && view.after.length === 0 && !view.prefix ? "" : " on this page";
  return count ? [" ", element("span", { class: "locks-note-of-figure" }, `${number(count)} not started${where}`)] : null;
}

function drawFigures() {
  const { stats, store: shown } = data;
  const atLeast = stats.complete ? "" : "≥ ";
  patch(byId("locks-held"), number(stats.holders), notStarted());
  patch(byId("locks-waiting"), atLeast + number(stats.waiting));
  patch(byId("locks-near"), number(stats.near_expiry));
  patch(byId("locks-oldest"), stats.oldest === null ? "—" : [keyLink(stats.oldest, stats.oldest_part), " ", heldFor({ since: stats.oldest_since })]);
  const own = shown.shared ? "" : " · only one process uses this store, so the leases of workers are not here";
  patch(byId("locks-store"), `${shown.url} · prefix ${shown.prefix}${own}`);
  patch(byId("locks-shown"), `Page ${view.after.length + 1} · ${number(data.locks.length)} shown · ${number(stats.locks)} keys in all`);
  setDisabled(byId("locks-previous"), view.after.length === 0);
  setDisabled(byId("locks-next"), data.next === null);
}

function setDisabled(button, isDisabled) {
  if (button.disabled !== isDisabled) button.disabled = isDisabled;
}

function drawSort() {
  document.querySelectorAll("[data-sort]").forEach((head) => {
    const order = head.dataset.sort === view.sort ? (view.descending ? "descending" : "ascending") : "none";
    head.setAttribute("aria-sort", order);
  });
}

function remember() {
  const parts = new URLSearchParams(store && { store });
  if (view.prefix) parts.set("prefix", view.prefix);
  view.after.forEach((key) => parts.append("after", key));
  if (view.count !== "50") parts.set("count", view.count);
  if (view.sort) {
    parts.set("sort", view.sort);
    parts.set("order", view.descending ? "descending" : "ascending");
  }
  history.replaceState(null, "", parts.size === 0 ? location.pathname : `?${parts}`);
}

function dataUrl() {
  const parts = new URLSearchParams({ prefix: view.prefix, count: view.count, ...(store && { store }) });
  if (view.after.length) parts.set("after", view.after[view.after.length - 1]);
  return `${page.dataUrl}?${parts}`;
}

const live = new Live(
  dataUrl,
  (answer) => {
    data = answer;
    drawRows();
    drawFigures();
  },
  // A store that keeps no list can still be read by key.
  () => data || patch(byId("locks-rows"), emptyRow("The list can't be shown.")),
);

function changed() {
  remember();
  live.now();
}

let typing;
byId("locks-search").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    view.prefix = event.target.value;
    view.after = [];
    changed();
  }, 200);
});

byId("locks-count").addEventListener("change", (event) => {
  view.count = event.target.value;
  view.after = [];
  changed();
});

byId("locks-store-choice")?.addEventListener("change", (event) => {
  const parts = new URLSearchParams({ ...(view.prefix && { prefix: view.prefix }), store: event.target.value });
  location.assign(`${location.pathname}?${parts}`);
});

byId("locks-next").addEventListener("click", () => {
  if (data.next === null) return;
  view.after = [...view.after, data.next];
  changed();
});

byId("locks-previous").addEventListener("click", () => {
  view.after = view.after.slice(0, -1);
  changed();
});

document.querySelectorAll("[data-sort]").forEach((head) => {
  head.addEventListener("click", () => {
    view.descending = view.sort === head.dataset.sort && !view.descending;
    view.sort = head.dataset.sort;
    drawSort();
    remember();
    if (data) {
      drawRows();
      drawSeen();
    }
  });
});

byId("locks-search").value = view.prefix;
byId("locks-count").value = view.count;
drawSort();
for (const id of ["locks-rows", "locks-oldest"]) watch(byId(id));
live.now();
