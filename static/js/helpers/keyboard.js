// Telling keys that mean something from keys that an input method takes.

const TOUCH_ONLY = matchMedia("(any-pointer: coarse) and (not (any-pointer: fine))").matches;
export const ENTER_KEY_HINT = TOUCH_ONLY ? "enter" : "send";

// Safari ends the composition just before the keydown of the Enter that ended it.
const SAME_KEY_MS = 40;
const COMPOSITION_KEY_CODE = 229;

/** Whether this keydown belongs to an input method; `compositionEndedAt` is the time stamp of the last one's end. */
export function isComposing(event, compositionEndedAt) {
  if (event.isComposing || event.keyCode === COMPOSITION_KEY_CODE) return true;
  return event.timeStamp - compositionEndedAt < SAME_KEY_MS;
}

/** Whether this keydown sends what is written. Touch alone: the on-screen keyboard's Enter is the only way to a new line. */
export function meansSend(event) {
  if (event.key !== "Enter" || event.shiftKey || event.altKey) return false;
  return event.ctrlKey || event.metaKey || !TOUCH_ONLY;
}

/** Whether it is Ctrl+Shift+O, or ⌘⇧O on a Mac. */
export function isNewChatShortcut(event) {
  return (event.ctrlKey || event.metaKey) && event.shiftKey && event.code === "KeyO";
}

export const IS_MAC = /Mac|iPhone|iPad/.test(navigator.platform);
