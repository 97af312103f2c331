// The popover in which a model is chosen: a search field that steers a list (the combobox pattern of WAI-ARIA).

import { emit, part, setText } from "../helpers/elements.js";
import { matchesSearch } from "../helpers/search.js";
import { ModelOption } from "./model_option.js";

const REFRESH_MS = 10_000;

export class ModelPicker {
  #element;
  #button;
  #search;
  #list;
  #catalog;
  #options = new Map();
  #active = null;
  #timer = null;

  constructor(element, { button, catalog }) {
    this.#element = element;
    this.#button = button;
    this.#search = part(element, "search");
    this.#list = part(element, "list");
    this.#catalog = catalog;
  }

  connect() {
    this.#button.addEventListener("click", this.#toggle);
    this.#search.addEventListener("input", this.#searched);
    this.#element.addEventListener("keydown", this.#keyPressed);
    this.#list.addEventListener("click", this.#clicked);
    this.#list.addEventListener("pointermove", this.#pointed);
    this.#catalog.addEventListener("change", this.#update);
    this.#update();
  }

  disconnect() {
    this.#close();
    this.#button.removeEventListener("click", this.#toggle);
    this.#search.removeEventListener("input", this.#searched);
    this.#element.removeEventListener("keydown", this.#keyPressed);
    this.#list.removeEventListener("click", this.#clicked);
    this.#list.removeEventListener("pointermove", this.#pointed);
    this.#catalog.removeEventListener("change", this.#update);
  }

  get #isOpen() {
    return !this.#element.hidden;
  }

  #toggle = () => {
    if (this.#isOpen) this.#close();
    else this.#open();
  };

  #open() {
    this.#element.hidden = false;
    this.#button.setAttribute("aria-expanded", "true");
    this.#search.value = "";
    this.#active = this.#catalog.chosen?.slug ?? null;
    this.#update();
    this.#search.focus({ preventScroll: true });
    document.addEventListener("pointerdown", this.#pointedElsewhere);
    document.addEventListener("focusin", this.#pointedElsewhere);
    this.#catalog.refresh();
    this.#timer = setInterval(() => this.#catalog.refresh(), REFRESH_MS);
  }

  #close() {
    this.#element.hidden = true;
    this.#button.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", this.#pointedElsewhere);
    document.removeEventListener("focusin", this.#pointedElsewhere);
    clearInterval(this.#timer);
  }

  #pointedElsewhere = ({ target }) => {
    if (!this.#element.contains(target) && !this.#button.contains(target)) this.#close();
  };

  #searched = () => {
    this.#active = null;
    this.#update();
  };

  #keyPressed = (event) => {
    const action = {
      ArrowDown: () => this.#move(1),
      ArrowUp: () => this.#move(-1),
      Home: () => this.#moveTo(0),
      End: () => this.#moveTo(-1),
      Enter: () => this.#choose(this.#active),
      Escape: () => this.#leave(),
    }[event.key];
    // Home and End are the search field's own while there is something in it.
    if (!action || event.isComposing || (/Home|End/.test(event.key) && this.#search.value)) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  };

  #move(step) {
    const slugs = this.#visibleSlugs();
    const index = slugs.indexOf(this.#active);
    this.#moveTo(index === -1 && step < 0 ? -1 : (index + step + slugs.length) % slugs.length);
  }

  #moveTo(index) {
    this.#active = this.#visibleSlugs().at(index) ?? null;
    this.#update();
    this.#options.get(this.#active)?.element.scrollIntoView({ block: "nearest" });
  }

  #clicked = ({ target }) => {
    this.#choose(target.closest("[data-slug]")?.dataset.slug);
  };

  #pointed = ({ target }) => {
    const slug = target.closest("[data-slug]")?.dataset.slug;
    if (!slug || slug === this.#active) return;
    this.#active = slug;
    this.#update();
  };

  #choose(slug) {
    const model = this.#catalog.find(slug);
    if (model?.state !== "ready") return;
    this.#catalog.choose(slug);
    this.#leave();
    emit(this.#element, "chat:model");
  }

  #leave() {
    this.#close();
    this.#button.focus({ preventScroll: true });
  }

  /** What can be chosen comes first. */
  #visibleSlugs() {
    const found = this.#catalog.models.filter((model) => matchesSearch(model, this.#search.value));
    const rank = ({ state }) => (state === "ready" ? 0 : 1);
    return found.toSorted((first, second) => rank(first) - rank(second)).map(({ slug }) => slug);
  }

  #update = () => {
    const { chosen } = this.#catalog;
    setText(part(this.#button, "name"), chosen?.name ?? "No model");
    this.#button.dataset.state = chosen?.state ?? "off";
    if (this.#isOpen) this.#updateList(chosen);
  };

  #updateList(chosen) {
    const visible = this.#visibleSlugs();
    if (!visible.includes(this.#active)) this.#active = visible[0] ?? null;
    const options = visible.map((slug) => this.#option(slug));
    for (const { element } of this.#options.values()) {
      if (!options.some((option) => option.element === element)) element.remove();
    }
    options.forEach((option, index) => {
      const { slug } = option.element.dataset;
      const there = this.#list.children[index] ?? null;
      if (there !== option.element) this.#list.insertBefore(option.element, there);
      option.update(this.#catalog.find(slug), { isChosen: slug === chosen?.slug, isActive: slug === this.#active });
    });
    part(this.#element, "empty").hidden = visible.length > 0;
    part(this.#element, "off").hidden = visible.every((slug) => this.#catalog.find(slug).state === "ready");
    this.#search.setAttribute("aria-activedescendant", this.#options.get(this.#active)?.element.id ?? "");
  }

  #option(slug) {
    if (!this.#options.has(slug)) this.#options.set(slug, new ModelOption(slug));
    return this.#options.get(slug);
  }
}
