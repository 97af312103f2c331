// KaTeX and highlight.js, loaded when a text first needs them; a text is shown without them until they are there.

let katex = null;
let highlighter = null;
let missing = false;
let announce = () => {};

/** `callback` runs each time a library has arrived. */
export function whenLoaded(callback) {
  announce = callback;
}

/** Whether a library has been asked for in vain since the last call of `forgetMissing`. */
export function isMissing() {
  return missing;
}

export function forgetMissing() {
  missing = false;
}

/** KaTeX, or null while it loads. */
export function mathLibrary() {
  if (katex) return katex;
  missing = true;
  loadMath();
  return null;
}

/** highlight.js with its common languages, or null while it loads. */
export function highlightLibrary() {
  if (highlighter) return highlighter;
  missing = true;
  loadHighlighter();
  return null;
}

const loadMath = once(async () => {
  katex = (await import("../../vendor/katex/katex.mjs")).default;
  announce();
});

const loadHighlighter = once(async () => {
  highlighter = (await import("../../vendor/highlight/highlight.min.js")).default;
  announce();
});

/** Runs `load` at the first call; a failed load is tried again by a later one. */
function once(load) {
  let loading = null;
  return () => {
    loading ??= load().catch(() => {
      loading = null;
    });
  };
}
