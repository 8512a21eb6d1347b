// Flower's clock, to which the moments of the data refer.

let offset = 0;
let stopped = null;

/** Return the time of Flower's clock. While the data is not current it is the time of the data. */
export const now = () => stopped ?? performance.now() + offset;

/** Set the clock by an answer: milliseconds since 1970. */
export function setClock(milliseconds) {
  offset = milliseconds - performance.now();
  stopped = null;
}

/** Stop the clock at a moment while there is no newer data: a lease may have been renewed, or released. */
export function stopClock(milliseconds) {
  stopped = milliseconds;
}

export function startClock() {
  stopped = null;
}

/** Return the current moment, by two clocks. Setting a clock, or sleep, distorts one of them, so the greater age counts. */
export const stamp = () => ({ steady: performance.now(), wall: Date.now() });
export const ageOf = ({ steady, wall }) => Math.max(performance.now() - steady, Date.now() - wall);
