// What a message may hold, before it is sent.

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
