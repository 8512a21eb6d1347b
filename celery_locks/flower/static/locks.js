// The list of what is held. One page of it is asked for at a time; sorting is within that page.

import { byId, Countdown, element, foreign, Live, number, serverNow, who } from "./common.js";

const page = byId("locks-page").dataset;
const countdown = new Countdown();
const asked = new URLSearchParams(location.search);
const view = {
  prefix: asked.get("prefix") || "",
  after: asked.getAll("after"), // where each page up to this one began
  count: asked.get("count") || "50",
  sort: asked.get("sort") || "",
  descending: asked.get("order") === "descending",
};
let data = null;

const first = (lock) => lock.holders[0] || {};
const values = {
  key: (lock) => lock.key,
  task: (lock) => first(lock).task || first(lock).owner,
  worker: (lock) => first(lock).worker,
  since: (lock) => serverNow() - first(lock).since,
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
    if (a === null || b === null) return (a === null) - (b === null); // what has no value comes last, either way
    return (a < b ? -1 : a > b ? 1 : 0) * (view.descending ? -1 : 1);
  });
}

function keyLink(key) {
  return element("a", { href: `${page.keyUrl}?key=${encodeURIComponent(key)}` }, foreign(key, "locks-name"));
}

function row(lock) {
  const holder = lock.holders[0];
  const others = lock.holders.length - 1 + lock.unnamed;
  const more = others > 0 ? element("div", { class: "locks-muted" }, `and ${others} more · ${lock.permits} of ${lock.limit} permits`) : null;
  const cell = (content, className) => element("td", { class: className }, content);
  if (!holder) {
    const nobody = element("td", { colspan: 3, class: "locks-muted" }, "nobody holds it");
    return element("tr", {}, cell(keyLink(lock.key)), nobody, cell("—"), cell(number(lock.waiting), "locks-figure"), cell("—", "locks-wide"));
  }
  return element(
    "tr",
    {},
    cell(keyLink(lock.key)),
    element("td", {}, who(holder, page.taskUrl), more),
    cell(holder.worker ? foreign(holder.worker) : "—", "locks-wide"),
    cell(countdown.heldFor(holder.since), "locks-figure"),
    cell(countdown.left(`${lock.key} ${holder.fencing_token}`, holder.until), "locks-figure"),
    cell(number(lock.waiting), "locks-figure"),
    cell(String(holder.fencing_token), "locks-wide locks-figure"),
  );
}

/** A line instead of rows. With a word in the search, it leads to the key of that name. */
function instead(text) {
  const lookUp = view.prefix ? element("a", { href: `${page.keyUrl}?key=${encodeURIComponent(view.prefix)}` }, "Look up this key.") : null;
  return element("tr", {}, element("td", { class: "empty-table-message", colspan: 7 }, `${text} `, lookUp));
}

function nothing() {
  if (data.next !== null) return instead("Nothing held here; there is more on the next page.");
  return instead(view.prefix ? "No key that begins so is held." : "No locks are held.");
}

function drawRows() {
  const rows = sorted(data.locks).map(row);
  const inFocus = document.activeElement && document.activeElement.closest("#locks-rows a");
  byId("locks-rows").replaceChildren(...(rows.length ? rows : [nothing()]));
  if (inFocus) [...document.querySelectorAll("#locks-rows a")].find((link) => link.href === inFocus.href)?.focus();
  countdown.keep(new Set(data.locks.flatMap((lock) => lock.holders.map((holder) => `${lock.key} ${holder.fencing_token}`))));
}

function drawFigures() {
  const { stats, store } = data;
  const atLeast = stats.complete ? "" : "≥ ";
  byId("locks-held").textContent = number(stats.holders);
  byId("locks-waiting").textContent = atLeast + number(stats.waiting);
  byId("locks-near").textContent = number(stats.near_expiry);
  const oldest = stats.oldest === null ? ["—"] : [countdown.heldFor(stats.oldest_since), " ", keyLink(stats.oldest)];
  byId("locks-oldest").replaceChildren(...oldest);
  const own = store.shared ? "" : " · this store is one process's own: what workers hold can't be seen here";
  byId("locks-store").textContent = `${store.url} · prefix ${store.prefix}${own}`;
  byId("locks-shown").textContent = `Page ${view.after.length + 1} · ${number(data.locks.length)} shown · ${number(stats.locks)} keys in all`;
  byId("locks-previous").disabled = view.after.length === 0;
  byId("locks-next").disabled = data.next === null;
}

function drawSort() {
  document.querySelectorAll("[data-sort]").forEach((head) => {
    const order = head.dataset.sort === view.sort ? (view.descending ? "descending" : "ascending") : "none";
    head.setAttribute("aria-sort", order);
  });
}

function remember() {
  const parts = new URLSearchParams();
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
  const parts = new URLSearchParams({ prefix: view.prefix, count: view.count });
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
  // A store that keeps no list still tells of a key.
  () => data || byId("locks-rows").replaceChildren(instead("The list can't be shown.")),
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
    if (data) drawRows();
  });
});

byId("locks-search").value = view.prefix;
byId("locks-count").value = view.count;
drawSort();
live.now();
