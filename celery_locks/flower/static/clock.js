// Moments of the data are by Flower's clock. This knows how far that is from the clock of this page.

let offset = 0;
let stopped = null;

/** What Flower's clock shows, or showed when what is on the page was true. */
export const now = () => stopped ?? performance.now() + offset;

/** Set it by an answer: milliseconds since 1970. */
export function setClock(milliseconds) {
  offset = milliseconds - performance.now();
  stopped = null;
}

/** Stop it at a moment while nothing newer is known: a lease may have been renewed, or released. */
export function stopClock(milliseconds) {
  stopped = milliseconds;
}

export function startClock() {
  stopped = null;
}

/** A moment of this page. A clock that is set and a computer that sleeps change one of the two, so the greater age counts. */
export const stamp = () => ({ steady: performance.now(), wall: Date.now() });
export const ageOf = ({ steady, wall }) => Math.max(performance.now() - steady, Date.now() - wall);
