// CommonMark with tables, strikethrough, bare addresses and mathematics, as HTML for each top-level block. Raw HTML
// is text, an image is a link to it, and only http, https and mailto are addresses.

import MarkdownIt from "../../vendor/markdown-it/markdown-it.esm.min.mjs";
import { highlight } from "./highlight.js";
import { forgetMissing, isMissing } from "./libraries.js";
import { addMath } from "./math.js";

export { whenLoaded } from "./libraries.js";

const ADDRESS = /^(https?:\/\/|mailto:)/i;

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: false });
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
markdown.validateLink = (address) => ADDRESS.test(address);
addMath(markdown);
addRules(markdown);

/** The HTML of each top-level block, in order. */
export function renderBlocks(text) {
  forgetMissing();
  const environment = {};
  const tokens = markdown.parse(text, environment);
  return topLevelBlocks(tokens).map((block) => markdown.renderer.render(block, markdown.options, environment));
}

/** Whether the blocks rendered last had every library they needed. */
export function isComplete() {
  return !isMissing();
}

function topLevelBlocks(tokens) {
  const blocks = [];
  let depth = 0;
  for (const token of tokens) {
    if (depth === 0) blocks.push([]);
    blocks.at(-1).push(token);
    depth += token.nesting;
  }
  return blocks;
}

function addRules({ renderer, utils: { escapeHtml } }) {
  const { rules } = renderer;
  rules.fence = (tokens, index) => codeBlock(tokens[index].content, tokens[index].info);
  rules.code_block = (tokens, index) => codeBlock(tokens[index].content, "");
  rules.table_open = () => '<div class="table-scroll" tabindex="0" role="group" aria-label="Table"><table>';
  rules.table_close = () => "</table></div>";
  rules.th_open = rules.td_open = cellOpen;
  rules.image = (tokens, index, options, environment) => {
    const token = tokens[index];
    const label = renderer.renderInlineAsText(token.children, options, environment) || token.attrGet("src");
    return `<a href="${escapeHtml(token.attrGet("src"))}">${escapeHtml(label)}</a>`;
  };

  function codeBlock(code, info) {
    const language = info.trim().split(/\s+/)[0].slice(0, 40);
    const html = highlight(code, language) ?? escapeHtml(code);
    return `<pre data-language="${escapeHtml(language)}"><code>${html}</code></pre>`;
  }

  // The alignment comes as a style attribute, which the page's policy refuses.
  function cellOpen(tokens, index) {
    const { tag } = tokens[index];
    const align = /text-align:(\w+)/.exec(tokens[index].attrGet("style") ?? "")?.[1];
    return align ? `<${tag} data-align="${align}">` : `<${tag}>`;
  }
}
