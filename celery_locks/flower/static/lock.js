// The page of one key.

import { chart } from "./chart.js";
import { byId, clockTime, Countdown, element, foreign, Live, number, serverNow, shortened, who } from "./common.js";

const page = byId("lock-page").dataset;
const key = new URLSearchParams(location.search).get("key");
const countdown = new Countdown();

const WORDS = {
  acquired: "acquired",
  contended: "contended",
  released: "released",
  lost: "lost",
  freed: "freed by hand",
  ended: "held no more",
};

function drawHolders(data) {
  const cell = (content, className) => element("td", { class: className }, content);
  const rows = data.holders.map((holder) =>
    element(
      "tr",
      {},
      cell(who(holder, page.taskUrl)),
      cell(holder.worker ? foreign(holder.worker) : "—", "locks-wide"),
      cell(countdown.heldFor(holder.since), "locks-figure"),
      cell(countdown.left(`${data.key} ${holder.fencing_token}`, holder.until), "locks-figure"),
      cell(`${holder.permits} of ${data.limit}`, "locks-wide"),
      cell(String(holder.fencing_token), "locks-wide locks-figure"),
      cell(releaseButton(holder)),
    ),
  );
  const text = data.waiting ? "Nobody holds this key; the first in line may take it." : "Nobody holds this key.";
  const nobody = element("tr", {}, element("td", { class: "empty-table-message", colspan: 7 }, text));
  byId("lock-holders").replaceChildren(...(rows.length ? rows : [nobody]));
}

function drawFigures(data) {
  const oldest = data.holders[0];
  const next = data.holders.reduce((first, holder) => (first && first.until < holder.until ? first : holder), null);
  byId("lock-held").textContent = data.limit > 1 ? `${data.permits} of ${data.limit}` : data.permits ? "yes" : "no";
  byId("lock-held-label").textContent = data.limit > 1 ? "Permits held" : "Held";
  byId("lock-waiting").textContent = number(data.waiting);
  byId("lock-for").replaceChildren(oldest ? countdown.heldFor(oldest.since) : "—");
  byId("lock-left").replaceChildren(next ? countdown.leftOnly(next.until) : "—");
}

function drawLine(data) {
  byId("lock-line").replaceChildren(...data.line.map((one) => element("li", {}, one.task ? foreign(one.task) : "", " ", who(one, page.taskUrl, false))));
  const more = data.waiting - data.line.length;
  const known = data.waiting === 0 ? "Nobody waits." : more > 0 ? `${number(more)} more wait; this page does not name them.` : "";
  byId("lock-line-note").textContent = known;
}

function drawHistory({ entries, began, watched_every: every, heard }) {
  const rows = entries.map((entry) => {
    const times = entry.times > 1 ? ` × ${entry.times}` : "";
    const what = element("span", { class: `locks-kind locks-kind-${entry.kind}` }, (WORDS[entry.kind] || entry.kind) + times);
    const seen = entry.seen ? "seen in the store" : "";
    return element(
      "tr",
      {},
      element("td", { title: new Date(entry.at).toISOString() }, clockTime(entry.at)),
      element("td", {}, what),
      element("td", {}, entry.owner || entry.task_id ? who(entry, page.taskUrl) : "—"),
      element("td", {}, foreign([entry.reason, seen].filter(Boolean).join(" · ") || "—")),
      element("td", { class: "locks-wide" }, entry.fencing_token === null ? "—" : String(entry.fencing_token)),
    );
  });
  const none = element("tr", {}, element("td", { class: "empty-table-message", colspan: 5 }, "Nothing was seen of this key yet."));
  byId("lock-history").replaceChildren(...(rows.length ? rows : [none]));
  const looks = every ? `looks at the store every ${every} s, and while this page is open` : "looks at the store while this page is open";
  const events = heard
    ? `and the workers' events, which it has since ${clockTime(heard)}.`
    : "and no events: none came. What comes and goes between two looks is missing, and so is why; workers with locks_events on send both.";
  byId("lock-source").textContent = `Kept by this Flower since ${clockTime(began)}, from ${looks}, ${events}`;
}

const live = new Live(
  () => `${page.dataUrl}?key=${encodeURIComponent(key)}`,
  (data) => {
    byId("lock-key").textContent = shortened(data.key);
    drawHolders(data);
    drawFigures(data);
    drawLine(data);
    drawHistory(data.history);
    byId("lock-chart").replaceChildren(chart(data.history, serverNow()));
    countdown.keep(new Set(data.holders.map((holder) => `${data.key} ${holder.fencing_token}`)));
  },
);

// Release: asked for, confirmed, and told whose it was.

let chosen = null;

function releaseButton(holder) {
  if (!page.releaseUrl) return null; // this Flower is read-only
  const button = element("button", { type: "button", class: "btn btn-sm btn-outline-danger" }, "Release…");
  button.addEventListener("click", () => {
    chosen = holder.fencing_token;
    byId("lock-dialog-owner").textContent = shortened(holder.owner);
    byId("lock-dialog-token").textContent = String(holder.fencing_token);
    byId("lock-dialog").showModal();
  });
  return button;
}

function tell(good, text) {
  byId("lock-done").textContent = text;
  byId("lock-done").className = `alert locks-alert ${good ? "alert-success" : "alert-warning"}`;
}

async function release() {
  byId("lock-dialog").close();
  try {
    const answer = await fetch(page.releaseUrl, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-XSRFToken": page.xsrf },
      body: JSON.stringify({ key, fencing_token: chosen }),
      redirect: "error",
    });
    const data = await answer.json();
    if (!answer.ok) tell(false, data.error);
    else if (data.released) tell(true, `Released. It was held by ${shortened(data.owner)}.`);
    else tell(false, "That lease is held no more: nothing was released.");
  } catch {
    tell(false, "Flower did not answer: look below whether the lease is still held.");
  }
  live.now();
}

if (page.releaseUrl) {
  byId("lock-dialog-cancel").addEventListener("click", () => byId("lock-dialog").close());
  byId("lock-dialog-release").addEventListener("click", release);
}

byId("lock-key").textContent = shortened(key);
live.now();
