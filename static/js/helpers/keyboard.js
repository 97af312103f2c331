// Telling keys that mean something from keys that an input method takes.

// Safari ends the composition just before the keydown of the Enter that ended it.
const SAME_KEY_MS = 40;
export const COMPOSITION_KEY_CODE = 229;

/** Whether this keydown belongs to an input method; `compositionEndedAt` is the time stamp of the last one's end. */
export function isComposing(event, compositionEndedAt) {
  if (event.isComposing || event.keyCode === COMPOSITION_KEY_CODE) return true;
  return event.timeStamp - compositionEndedAt < SAME_KEY_MS;
}

/** Whether it is Ctrl+Shift+O, or ⌘⇧O on a Mac. */
export function isNewChatShortcut(event) {
  return (event.ctrlKey || event.metaKey) && event.shiftKey && event.code === "KeyO";
}

export const IS_MAC = /Mac|iPhone|iPad/.test(navigator.platform);
