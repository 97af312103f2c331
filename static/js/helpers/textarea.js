// Boxes that grow with what is written in them.

const SURELY_TALL_UNITS = 8_000;

/** Makes a textarea as tall as its text; the stylesheet ends the growth, and its border is zero. */
export function fitToText(textarea) {
  const { style } = textarea;
  // Measuring thousands of lines at each key is slow, and they are over the limit of the stylesheet anyway.
  if (textarea.value.length > SURELY_TALL_UNITS) {
    style.blockSize = "100dvh";
    return;
  }
  style.blockSize = "auto";
  style.blockSize = `${textarea.scrollHeight}px`;
}
