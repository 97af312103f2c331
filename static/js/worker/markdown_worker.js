// Markdown to HTML, off the main thread. A request is {id, text}; its answer {id, blocks, complete}: one string of
// HTML for each block of the top level. `complete` is false while a library that the text needs is on its way; then
// "loaded" is sent once it is there. "ready" tells that the worker itself is. The page sanitises what it gets.

import { isComplete, renderBlocks, whenLoaded } from "./markdown.js";

self.addEventListener("message", ({ data: { id, text } }) => {
  const blocks = renderBlocks(text);
  self.postMessage({ type: "rendered", id, blocks, complete: isComplete() });
});

whenLoaded(() => self.postMessage({ type: "loaded" }));
self.postMessage({ type: "ready" });
