// What a message may hold, before it is sent.

import { formatBytes } from "./format.js";

// The whole frame may have 64 KiB, and JSON writes a line break or a quote in two bytes.
const MOST_ENCODED_BYTES = 63 * 1024;

const encoder = new TextEncoder();
const LONE_SURROGATES = /[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/g;

/** The text without NUL, which PostgreSQL cannot store, and with lone surrogates, which UTF-8 cannot, replaced. */
export function cleanText(text) {
  return text.replaceAll("\0", "").replace(LONE_SURROGATES, "\uFFFD");
}

/** The length in UTF-8, in bytes. */
export function byteLength(text) {
  return encoder.encode(text).length;
}

/** A sentence for a message that is over `most` bytes, or too long for a frame; "" for one that can be sent. */
export function lengthProblem(text, most) {
  // A UTF-16 unit is at most 3 bytes: most texts need no counting.
  if (text.length * 3 <= most) return "";
  const bytes = byteLength(cleanText(text));
  if (bytes > most) return `Too long: ${formatBytes(bytes)} of at most ${formatBytes(most)}.`;
  const encoded = byteLength(JSON.stringify(text));
  if (encoded <= MOST_ENCODED_BYTES) return "";
  const limit = formatBytes(MOST_ENCODED_BYTES);
  return `Too long: ${formatBytes(encoded)} with its line breaks and quotes, of at most ${limit}.`;
}
