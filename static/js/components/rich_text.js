// The only place where markup made from a model's text enters the page: sanitised into nodes, never set as innerHTML.
// Blocks that have not changed keep their nodes; the one that is being written is changed in place.

import DOMPurify from "../../vendor/dompurify/purify.es.mjs";
import { copyText } from "../helpers/clipboard.js";
import { cloneTemplate, part } from "../helpers/elements.js";
import { morph } from "../helpers/morph.js";
import { applyFormulaStyles } from "../helpers/formula_styles.js";
import { SANITIZE } from "../helpers/sanitize.js";

const ADDRESS = /^(https?:\/\/|mailto:)/i;
const COPIED_MS = 1_500;

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  // Checked here again, after everything that may have changed it.
  if (!ADDRESS.test(node.getAttribute("href") ?? "")) node.removeAttribute("href");
  node.setAttribute("rel", "noreferrer nofollow noopener");
  node.setAttribute("target", "_blank");
});

export class RichText {
  #element;
  #renderer;
  #id;
  #text = null;
  #shown = [];

  /** `id` names the message to the renderer. */
  constructor(element, { renderer, id }) {
    this.#element = element;
    this.#renderer = renderer;
    this.#id = id;
  }

  connect() {
    this.#element.addEventListener("click", this.#copyCode);
  }

  disconnect() {
    this.#element.removeEventListener("click", this.#copyCode);
    this.#renderer.forget(this.#id);
  }

  /** Shows Markdown; as plain text until it is rendered for the first time. */
  show(text) {
    if (text === this.#text) return;
    const isFirst = this.#text === null || this.#text === "";
    this.#text = text;
    if (isFirst) this.#showPlain();
    this.#renderer.render(this.#id, text, (blocks) => (blocks ? this.#showBlocks(blocks) : this.#showPlain()));
  }

  #showPlain() {
    if (this.#shown.length > 0 || !this.#element.firstElementChild?.matches(".plain-text")) {
      const plain = document.createElement("div");
      plain.className = "plain-text";
      plain.dir = "auto";
      this.#element.replaceChildren(plain);
      this.#shown = [];
    }
    this.#element.firstElementChild.textContent = this.#text;
  }

  #showBlocks(blocks) {
    if (this.#shown.length === 0) this.#element.replaceChildren();
    this.#element.dataset.rendered = "";
    blocks.forEach((html, index) => {
      if (html !== this.#shown[index]) this.#showBlock(index, html);
    });
    while (this.#element.childElementCount > blocks.length) this.#element.lastElementChild.remove();
    this.#shown = blocks;
  }

  #showBlock(index, html) {
    const wanted = blockElement(html);
    const current = this.#element.children[index];
    if (current) morph(current, wanted);
    else this.#element.append(wanted);
    applyFormulaStyles(this.#element.children[index]);
  }

  #copyCode = async ({ target }) => {
    const button = target.closest('[data-action="copy-code"]');
    if (!button) return;
    const copied = await copyText(button.closest("figure").querySelector("code").textContent);
    const label = part(button, "label");
    label.textContent = copied ? "Copied" : "Copying was refused";
    setTimeout(() => (label.textContent = "Copy"), COPIED_MS);
  };
}

function blockElement(html) {
  const block = document.createElement("div");
  block.className = "block";
  block.dir = "auto";
  block.append(DOMPurify.sanitize(html, SANITIZE));
  for (const pre of block.querySelectorAll("pre")) frameCode(pre);
  return block;
}

/** Puts a code block into a frame with its language and a button; neither can come from the text itself. */
function frameCode(pre) {
  const figure = cloneTemplate("code-block-template");
  part(figure, "language").textContent = pre.dataset.language || "text";
  pre.replaceWith(figure);
  pre.tabIndex = 0;
  pre.translate = false;
  figure.append(pre);
}
