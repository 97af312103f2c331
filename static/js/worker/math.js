// Mathematics in Markdown: $…$ and \(…\) in a line, $$…$$ and \[…\] on their own, rendered by KaTeX.
//
// A dollar sign opens mathematics only before a character that is not a space, and closes it only after one that is
// not a space and before one that is not a digit, so that "$5 and $9" stays money (the rule of Pandoc's
// tex_math_dollars). Code is parsed before these rules run, so that nothing in it is taken.

import { mathLibrary } from "./libraries.js";
import { Recent } from "./recent.js";

const OPTIONS = { throwOnError: true, strict: "ignore", trust: false, maxSize: 20, maxExpand: 200 };
const MOST_UNITS = 5_000;

const recent = new Recent(400);

/** Adds the rules to a MarkdownIt. */
export function addMath(markdown) {
  const { inline, block, renderer } = markdown;
  // Before "escape", which would take the backslash of \( away.
  inline.ruler.before("escape", "math", inlineMath);
  block.ruler.before("fence", "math_block", blockMath, { alt: ["paragraph", "reference", "blockquote", "list"] });
  const rule = (tokens, index) => renderMath(tokens[index], markdown.utils.escapeHtml);
  renderer.rules.math_inline = renderer.rules.math_block = rule;
}

function inlineMath(state, silent) {
  const span = bracketSpan(state.src, state.pos) ?? dollarSpan(state.src, state.pos);
  if (!span || span.end > state.posMax) return false;
  if (!silent) {
    const token = state.push("math_inline", "", 0);
    token.content = span.content;
    token.markup = state.src.slice(state.pos, span.end);
    token.meta = { display: span.display };
  }
  state.pos = span.end;
  return true;
}

function bracketSpan(source, start) {
  if (source[start] !== "\\") return null;
  const close = { "(": "\\)", "[": "\\]" }[source[start + 1]];
  if (!close) return null;
  return spanUntil(source, start + 2, close, source[start + 1] === "[");
}

function dollarSpan(source, start) {
  if (source[start] !== "$" || source[start - 1] === "\\") return null;
  if (source[start + 1] === "$") return spanUntil(source, start + 2, "$$", true);
  if (start + 1 >= source.length || /\s/.test(source[start + 1])) return null;
  for (let end = source.indexOf("$", start + 1); end !== -1; end = source.indexOf("$", end + 1)) {
    if (source[end - 1] === "\\") continue;
    // The first dollar sign that could close decides; looking further would join two prices in a sentence.
    if (/\s/.test(source[end - 1]) || /\d/.test(source[end + 1] ?? "")) return null;
    return { content: source.slice(start + 1, end), end: end + 1, display: false };
  }
  return null;
}

function spanUntil(source, start, close, display) {
  const end = source.indexOf(close, start);
  const content = source.slice(start, Math.max(end, start));
  return content.trim() === "" ? null : { content, end: end + close.length, display };
}

/** A block that starts with $$ or \[ and ends with its counterpart at the end of a line, before any empty line. */
function blockMath(state, startLine, endLine, silent) {
  const first = lineOf(state, startLine);
  const open = ["$$", "\\["].find((marker) => first.startsWith(marker));
  if (!open || state.sCount[startLine] - state.blkIndent >= 4) return false;
  const close = open === "$$" ? "$$" : "\\]";
  const lines = [];
  for (let line = startLine; line < endLine; line += 1) {
    const text = line === startLine ? first.slice(2) : lineOf(state, line);
    if (line > startLine && (state.isEmpty(line) || state.sCount[line] < state.blkIndent)) return false;
    lines.push(text);
    if (text.trimEnd().endsWith(close)) return silent || pushBlock(state, startLine, line + 1, lines, close);
    if (text.includes(close)) return false;
  }
  return false;
}

function pushBlock(state, startLine, nextLine, lines, close) {
  const source = lines.join("\n").trimEnd().slice(0, -close.length);
  if (source.includes(close)) return false;
  const token = state.push("math_block", "", 0);
  token.block = true;
  token.content = source;
  token.markup = close === "$$" ? `$$${source}$$` : `\\[${source}\\]`;
  token.map = [startLine, nextLine];
  token.meta = { display: true };
  state.line = nextLine;
  return true;
}

function lineOf(state, line) {
  return state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]);
}

/** The formula; its source where it cannot be one, and until KaTeX is there. */
function renderMath({ content, markup, meta: { display } }, escapeHtml) {
  const fallback = `<code class="math-source">${escapeHtml(markup)}</code>`;
  if (content.length > MOST_UNITS) return fallback;
  const library = mathLibrary();
  if (!library) return fallback;
  return recent.get(`${display}${content}`, () => formula(library, content, display) ?? fallback);
}

/** null where KaTeX does not understand it. */
function formula(library, content, display) {
  try {
    const html = library.renderToString(content, { ...OPTIONS, displayMode: display });
    // The page's policy refuses style attributes; the page sets an allow-list of their properties by itself.
    // KaTeX escapes quotes in text, so that this can only be an attribute.
    return html.replaceAll(' style="', ' data-style="');
  } catch (error) {
    if (error instanceof library.ParseError) return null;
    throw error;
  }
}
