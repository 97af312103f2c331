// Numbers and sentences as the page shows them.

/** 49152 -> "48 KB"; one decimal below 100 KB, so that a text just over its limit does not look equal to it. */
export function formatBytes(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  const kilobytes = bytes / 1024;
  return `${kilobytes < 100 ? Number(kilobytes.toFixed(1)) : Math.round(kilobytes)} KB`;
}

/** 1 -> "1st", 2 -> "2nd", 11 -> "11th". */
export function ordinal(number) {
  const suffixes = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${number}${suffixes[ordinalRules.select(number)]}`;
}

const ordinalRules = new Intl.PluralRules("en", { type: "ordinal" });

/** A context length in tokens: 8192 -> "8k", 131072 -> "128k", 1048576 -> "1M". */
export function formatContext(tokens) {
  if (tokens < 1024) return String(tokens);
  const binary = tokens % 1024 === 0;
  const thousands = tokens / (binary ? 1024 : 1000);
  if (thousands >= 1000) return `${Number((thousands / (binary ? 1024 : 1000)).toFixed(1))}M`;
  return `${Math.round(thousands)}k`;
}

/** "218 tokens · 41 tok/s · 0.3 s to first", with what is not known left out. */
export function formatFigures({ usage, tokensPerS, ttftMs }) {
  const figures = [];
  if (usage) figures.push(count(usage.completion_tokens, "token"));
  if (tokensPerS != null) figures.push(`${tokensPerS < 10 ? tokensPerS.toFixed(1) : Math.round(tokensPerS)} tok/s`);
  if (ttftMs != null) figures.push(`${(ttftMs / 1000).toFixed(ttftMs < 100 ? 2 : 1)} s to first`);
  return figures.join(" · ");
}

/** How long until something begins, no more exact than an estimate is: 0.4 -> "any moment", 23 -> "about 25 s". */
export function formatWait(seconds) {
  if (seconds < 2) return "any moment";
  if (seconds < 10) return `about ${Math.round(seconds)} s`;
  if (seconds < 57.5) return `about ${5 * Math.round(seconds / 5)} s`;
  return `about ${Math.round(seconds / 60)} min`;
}

/** (1, "token") -> "1 token", (218, "token") -> "218 tokens". */
export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** What a model has to do: "idle", "2 answering, 0 waiting", "loading 40 %". */
export function loadInWords(state, loading, running, waiting) {
  if (state === "off") return "not running";
  if (state === "loading") return `loading ${Math.round(100 * loading)} %`;
  if (running === 0 && waiting === 0) return "idle";
  return `${running} answering, ${waiting} waiting`;
}
