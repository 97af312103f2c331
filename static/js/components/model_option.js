// One row of the model picker.

import { cloneTemplate, part, setText } from "../helpers/elements.js";
import { formatContext, loadInWords } from "../helpers/format.js";

// The bar is half full at this many answers; what waits counts double.
const HALF_LOAD = 4;

export class ModelOption {
  element = cloneTemplate("model-option-template");

  constructor(slug) {
    this.element.dataset.slug = slug;
    this.element.id = `model-${slug}`;
  }

  update(model, { isChosen, isActive }) {
    const { element } = this;
    element.dataset.state = model.state;
    element.toggleAttribute("data-active", isActive);
    element.setAttribute("aria-selected", String(isChosen));
    element.setAttribute("aria-disabled", String(model.state !== "ready"));
    if (model.state !== "ready") element.setAttribute("aria-describedby", "picker-off");
    else element.removeAttribute("aria-describedby");
    setText(part(element, "name"), model.name);
    setText(part(element, "maker"), model.maker && `${model.maker} · `);
    setText(part(element, "description"), model.description);
    this.#updateLoad(model);
    this.#updateBadges(model);
  }

  #updateLoad({ state, loading, running, waiting }) {
    const load = part(this.element, "load");
    const demand = running + 2 * waiting;
    const share = state === "loading" ? loading : demand / (demand + HALF_LOAD);
    load.dataset.load = state !== "ready" ? state : waiting > 0 ? "busy" : "free";
    part(load, "bar").style.inlineSize = `${Math.round(100 * share)}%`;
    setText(part(load, "load-text"), loadInWords(state, loading, running, waiting));
  }

  #updateBadges({ capabilities, context_length: contextLength, licence }) {
    const badges = part(this.element, "badges");
    const words = [...capabilities, formatContext(contextLength), licence].filter(Boolean);
    if (badges.childElementCount === words.length) return;
    badges.replaceChildren(...words.map(badge));
  }
}

function badge(word) {
  const element = document.createElement("span");
  element.className = "badge";
  element.textContent = word;
  return element;
}
