// Touches that mean a direction.

const LEAST_PX = 50;

/** 1 for a swipe to the right, -1 to the left, 0 for anything else. */
export function swipeDirection(deltaX, deltaY) {
  if (Math.abs(deltaX) < LEAST_PX || Math.abs(deltaX) < 1.5 * Math.abs(deltaY)) return 0;
  return Math.sign(deltaX);
}
