// Changes a page in place. Each answer describes the whole page, and `patch` writes only the differences.
// Nodes that stay keep the focus, the selection, the pointer's click and an open tooltip.

import { follow } from "./countdown.js";

const SVG = "http://www.w3.org/2000/svg";
const drawn = new WeakMap(); // the last description of the children of each patched element

/**
 * Describe an element. Text is always text, never HTML.
 *
 * `key` names it among its siblings, and `moves` is a value that changes between two answers: see countdown.js.
 */
export function element(tag, { key, moves, ...attributes } = {}, ...children) {
  return { tag, key, moves, attributes, children: describe(children, []) };
}

/** Return the children in one list, with texts as objects. `patch` adds the node that shows each. */
function describe(children, found) {
  for (const child of children) {
    if (Array.isArray(child)) describe(child, found);
    else if (typeof child === "object" && child !== null) found.push(child);
    else if (child !== null && child !== undefined && child !== "") found.push({ text: String(child) });
  }
  return found;
}

/** Replace the children of an element by texts and by elements that `element` describes. */
export function patch(parent, ...children) {
  if (!drawn.has(parent)) parent.replaceChildren();
  const wanted = describe(children, []);
  arrange(parent, drawn.get(parent) ?? [], wanted);
  drawn.set(parent, wanted);
}

function arrange(parent, was, wanted) {
  if (was.length === wanted.length && was.every((one, i) => isSame(one, wanted[i]))) {
    for (let i = 0; i < was.length; i += 1) update(was[i], wanted[i]);
    return;
  }
  const byName = new Map();
  for (const one of was) {
    const name = nameOf(one);
    if (byName.has(name)) byName.get(name).push(one);
    else byName.set(name, [one]);
  }
  for (const one of wanted) {
    const before = byName.get(nameOf(one))?.shift();
    if (before) update(before, one);
    else make(one, parent);
  }
  const nodes = wanted.map((one) => one.node);
  const kept = new Set(nodes);
  const place = was.findIndex(({ node }) => !kept.has(node) && node.contains(document.activeElement));
  const inUse = childInUse(parent, kept);
  for (const { node } of was) if (!kept.has(node)) node.remove();
  order(parent, nodes, inUse);
  if (place >= 0) focusNear(parent, place);
}

const isSame = (one, other) => one.tag === other.tag && one.key === other.key;
const nameOf = ({ tag, key }) => `${tag} ${key}`;

/** Sort nodes. A node in use is never moved, since it would lose the focus or the click. */
function order(parent, nodes, inUse) {
  let next = parent.firstChild;
  for (const node of nodes) {
    if (node === inUse || (next !== inUse && next?.nextSibling === node)) {
      while (next !== node) {
        const later = next; // it is placed later
        next = next.nextSibling;
        parent.append(later);
      }
    }
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
}

/** Return the child that the pointer presses, that has the focus, or in which the selection begins. */
function childInUse(parent, kept) {
  const selection = getSelection();
  const candidates = [parent.querySelector(":active"), document.activeElement, selection.isCollapsed ? null : selection.anchorNode];
  for (let node of candidates) {
    while (node && node.parentNode !== parent) node = node.parentNode;
    if (node && kept.has(node)) return node;
  }
  return null;
}

/** Move the focus from a removed child to a neighbor. It must not be a button, which the next key might press. */
function focusNear(parent, place) {
  const near = parent.children[Math.min(place, parent.children.length - 1)];
  const target = near?.querySelector("a[href]") ?? parent.closest("section[tabindex]");
  target?.focus({ preventScroll: true });
}

function update(was, wanted) {
  if (was === wanted) return;
  const node = (wanted.node = was.node);
  if (wanted.tag === undefined) {
    if (was.text !== wanted.text) node.data = wanted.text;
    return;
  }
  for (const name in wanted.attributes) {
    if (was.attributes[name] !== wanted.attributes[name]) setAttribute(node, name, wanted.attributes[name]);
  }
  for (const name in was.attributes) if (!(name in wanted.attributes)) node.removeAttribute(name);
  if (wanted.moves) follow(node, wanted.moves);
  else arrange(node, was.children, wanted.children);
}

function make(wanted, parent) {
  if (wanted.tag === undefined) {
    wanted.node = document.createTextNode(wanted.text);
    return;
  }
  const node = (wanted.node = document.createElementNS(wanted.tag === "svg" ? SVG : parent.namespaceURI, wanted.tag));
  for (const name in wanted.attributes) setAttribute(node, name, wanted.attributes[name]);
  for (const child of wanted.children) {
    make(child, node);
    node.append(child.node);
  }
  if (wanted.moves) follow(node, wanted.moves);
}

function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else node.setAttribute(name, value);
}
