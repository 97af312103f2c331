// Waiting before another try: exponential, with full jitter, so that many clients do not come back at once.

const LEAST_MS = 500;
const MOST_MS = 20_000;

/** Between 0 and min(20 s, 0.5 s · 2^attempt); attempts count from 0. */
export function backoffMs(attempt) {
  return Math.random() * Math.min(MOST_MS, LEAST_MS * 2 ** attempt);
}
