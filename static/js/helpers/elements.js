// Small things that every component does with elements.

/** A copy of the single element in the <template> of this id. */
export function cloneTemplate(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** The element marked data-part="name" inside `root`. */
export function part(root, name) {
  return root.querySelector(`[data-part="${name}"]`);
}

/** Sends an event up the tree; main.js listens on the page's root. */
export function emit(element, type, detail = {}) {
  element.dispatchEvent(new CustomEvent(type, { bubbles: true, detail }));
}

/** Sets text only where it differs, so that a screen reader or a selection is not disturbed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Runs `callback` once in the next frame, however often the function it returns is called. */
export function oncePerFrame(callback) {
  let frame = null;
  return () => {
    frame ??= requestAnimationFrame(() => {
      frame = null;
      callback();
    });
  };
}
