// Code, coloured.

import { highlightLibrary } from "./libraries.js";
import { Recent } from "./recent.js";

// Beyond it colouring costs more than it helps, at each frame of a streamed answer.
const MOST_UNITS = 30_000;

const recent = new Recent(200);

/** HTML of `code`; null where the language is unknown, the code too long, or the library not there yet. */
export function highlight(code, language) {
  if (language === "" || code.length > MOST_UNITS) return null;
  const library = highlightLibrary();
  if (!library?.getLanguage(language)) return null;
  return recent.get(`${language}\n${code}`, () => library.highlight(code, { language, ignoreIllegals: true }).value);
}
