// A chart of contention over time: the number of waiters, and the minutes with refused acquisitions.

import { clockTime } from "./common.js";
import { element } from "./patch.js";

const WIDTH = 600;
const HEIGHT = 100;
const SHORTEST = 60e3; // at least a minute, so that the first seconds don't fill the chart
const GAP = 30e3; // nothing is drawn between reads that are further apart

/** Return the periods without a gap: lists of [from, to, waiting]. */
function stretches(samples) {
  const found = [];
  let last = null;
  for (const [begin, end, waiting] of samples) {
    if (last === null || begin - last > GAP) found.push([]);
    found[found.length - 1].push([begin, end, waiting]);
    last = end;
  }
  return found;
}

/** Describe an <svg> with its legend, of the history of a key. */
export function chart({ samples, contended }, now) {
  const begin = Math.min(now - SHORTEST, ...samples.map((one) => one[0]), ...contended.map((one) => one[0]));
  const most = Math.max(1, ...samples.map((one) => one[2]));
  const mostRefused = Math.max(1, ...contended.map((one) => one[1]));
  const x = (moment) => ((moment - begin) / (now - begin)) * WIDTH;
  const y = (waiting) => HEIGHT - 2 - (waiting / most) * (HEIGHT - 10);

  const refusals = contended.reduce((sum, one) => sum + one[1], 0);
  const title = element("title", {}, `At most ${most} waited at the same time; ${refusals} refusals were reported`);
  const axis = element("line", { class: "locks-axis", x1: 0, x2: WIDTH, y1: HEIGHT - 2, y2: HEIGHT - 2 });
  const bars = contended.map(([minute, times]) => {
    const height = (times / mostRefused) * (HEIGHT - 10);
    const width = Math.max(2, x(minute + 60e3) - x(minute) - 1);
    return element("rect", { key: minute, class: "locks-refused", x: Math.max(0, x(minute)), y: HEIGHT - 2 - height, width, height });
  });
  const curves = stretches(samples).flatMap((stretch) => {
    // Each value lasts until the next read.
    const points = stretch.flatMap(([from, to, waiting], i) => {
      const end = i + 1 < stretch.length ? stretch[i + 1][0] : to;
      return [`${x(from).toFixed(1)},${y(waiting).toFixed(1)}`, `${x(end).toFixed(1)},${y(waiting).toFixed(1)}`];
    });
    const [left, right] = [x(stretch[0][0]), x(stretch[stretch.length - 1][1])];
    return [
      element("polygon", { class: "locks-area", points: `${left},${HEIGHT - 2} ${points.join(" ")} ${right},${HEIGHT - 2}` }),
      element("polyline", { class: "locks-curve", points: points.join(" ") }),
    ];
  });
  const refused = contended.length ? ` · bars: refusals a minute, at most ${mostRefused}` : "";
  return [
    element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, title, axis, bars, curves),
    element(
      "div",
      { class: "locks-legend" },
      element("span", {}, clockTime(begin)),
      element("span", {}, `line: waiting, at most ${most}${refused}`),
      element("span", {}, clockTime(now)),
    ),
  ];
}
