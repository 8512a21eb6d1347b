// Moving values: for how long a lease has been held, and the time that it has left.
// They are drawn with each answer, and only in visible rows: 500 moving rows would keep a processor busy.

import { now } from "./clock.js";

const MARGIN = 200; // pixels above and below the visible area
const OUT_OF_SIGHT = 15; // after this many answers all rows are drawn, for screen readers and the browser's search

const moving = new WeakMap(); // the moving value of each node
const figures = new Set(); // elements that are always drawn
const tables = new Set(); // elements with many rows
const seen = new Set(); // visible rows

/** Draw the moving values of an element. In the body of a table draw those of the visible rows. */
export function watch(block) {
  if (block.rows) tables.add(block);
  else figures.add(block);
}

/**
 * Draw a moving value in a node: { kind, of }. It is computed from `of.since` or `of.until`, which may change.
 */
export function follow(node, what) {
  const isNew = !moving.has(node);
  const known = { ...what, longest: moving.get(node)?.longest ?? what.of.until - now() };
  moving.set(node, known);
  if (isNew && what.kind !== "bar") draw(node, known, []);
}

/** Draw the visible values. */
export function drawSeen() {
  const selected = selectedTexts();
  const rows = [...tables].flatMap(rowsInSight);
  for (const row of seen) {
    if (rows.includes(row)) continue;
    row.classList.remove("locks-seen");
    seen.delete(row);
  }
  for (const row of rows) {
    if (seen.has(row)) continue;
    row.classList.add("locks-seen");
    seen.add(row);
  }
  for (const block of [...figures, ...rows]) drawBlock(block, selected);
}

/** Draw the values after an answer. */
export function drawAnswer() {
  drawSeen();
  answers += 1;
  if (answers % OUT_OF_SIGHT === 0) drawTexts();
}
let answers = 0;

function drawTexts() {
  drawBlock(document, selectedTexts(), ({ kind }) => kind !== "bar");
}

function drawBlock(block, selected, isWanted = () => true) {
  for (const node of block.getElementsByClassName("locks-moving")) {
    const what = moving.get(node);
    if (what !== undefined && isWanted(what)) draw(node, what, selected);
  }
}

/** Return the visible rows of a table's body, and a few more. */
function rowsInSight({ rows }) {
  let [from, to] = [0, rows.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (rows[middle].getBoundingClientRect().bottom < -MARGIN) from = middle + 1;
    else to = middle;
  }
  const found = [];
  for (let i = from; i < rows.length && rows[i].getBoundingClientRect().top < innerHeight + MARGIN; i += 1) found.push(rows[i]);
  return found;
}

/** Return the texts in which the reader's selection begins or ends. Writing them would drop the selection. */
function selectedTexts() {
  const { anchorNode, focusNode, isCollapsed } = getSelection();
  return isCollapsed ? [] : [anchorNode, focusNode];
}

function draw(node, what, selected) {
  if (what.kind === "bar") {
    drawBar(node, what);
    return;
  }
  const left = what.of.until - now();
  const text = what.kind === "since" ? duration(now() - what.of.since) : left > 0 ? duration(left + 999) : (what.over ?? "over");
  const last = node.firstChild;
  if (last === null) node.append(text);
  else if (last.data !== text && !selected.includes(last)) last.data = text;
}

function drawBar(node, what) {
  const left = Math.max(0, what.of.until - now());
  what.longest = Math.max(what.longest, left, 1); // the ttl is unknown, but the longest time left is near it
  const share = left / what.longest;
  const width = `scaleX(${share.toFixed(2)})`;
  if (what.width === width) return;
  what.width = node.style.transform = width;
  node.classList.toggle("locks-near", share < 0.34);
}

export function duration(milliseconds) {
  const seconds = Math.floor(Math.max(0, milliseconds) / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

let isAsked = false;
function drawSoon() {
  if (isAsked) return;
  isAsked = true;
  requestAnimationFrame(() => {
    isAsked = false;
    drawSeen();
  });
}
for (const event of ["scroll", "resize"]) addEventListener(event, drawSoon, { passive: true, capture: true });
for (const event of ["copy", "beforeprint"]) addEventListener(event, drawTexts);
