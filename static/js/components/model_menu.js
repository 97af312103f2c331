// The small menu at an answer: the models that could give another one now (the menu pattern of WAI-ARIA).

import { cloneTemplate, emit, part, setText } from "../helpers/elements.js";
import { loadInWords } from "../helpers/format.js";

const GAP_PX = 6;

export class ModelMenu {
  #element;
  #catalog;
  #button = null;

  constructor(element, { catalog }) {
    this.#element = element;
    this.#catalog = catalog;
  }

  connect() {
    this.#element.addEventListener("click", this.#clicked);
    this.#element.addEventListener("keydown", this.#keyPressed);
    this.#element.addEventListener("toggle", this.#toggled);
    this.#catalog.addEventListener("change", this.#update);
    window.addEventListener("resize", this.close);
  }

  disconnect() {
    this.close();
    this.#element.removeEventListener("click", this.#clicked);
    this.#element.removeEventListener("keydown", this.#keyPressed);
    this.#element.removeEventListener("toggle", this.#toggled);
    this.#catalog.removeEventListener("change", this.#update);
    window.removeEventListener("resize", this.close);
  }

  /** Opens at a button of a message, which then sends "chat:retry" with the chosen slug. */
  open(button, message) {
    this.#button = button;
    this.#element.dataset.message = message;
    this.#element.showPopover();
    button.setAttribute("aria-expanded", "true");
    this.#update();
    this.#items[0]?.focus({ preventScroll: true });
    this.#catalog.refresh();
  }

  close = () => {
    if (this.#isOpen) this.#element.hidePopover();
  };

  get #isOpen() {
    return this.#element.matches(":popover-open");
  }

  get #items() {
    return Array.from(this.#element.querySelectorAll("[data-slug]"));
  }

  #update = () => {
    if (!this.#isOpen) return;
    const ready = this.#catalog.models.filter(({ state }) => state === "ready");
    const list = part(this.#element, "list");
    const slugs = this.#items.map(({ dataset }) => dataset.slug);
    // Only where they differ, so that the focus stays.
    if (String(slugs) !== String(ready.map(({ slug }) => slug))) list.replaceChildren(...ready.map(menuItem));
    for (const item of this.#items) {
      const { state, loading, running, waiting } = this.#catalog.find(item.dataset.slug);
      setText(part(item, "load"), loadInWords(state, loading, running, waiting));
    }
    part(this.#element, "empty").hidden = ready.length > 0;
    this.#place();
  };

  // Under its button, or over it where the room below is too small.
  #place() {
    const { style, offsetHeight, offsetWidth } = this.#element;
    const { left, top, bottom } = this.#button.getBoundingClientRect();
    const fitsBelow = bottom + GAP_PX + offsetHeight <= innerHeight;
    style.top = `${Math.max(GAP_PX, fitsBelow ? bottom + GAP_PX : top - GAP_PX - offsetHeight)}px`;
    style.left = `${Math.max(GAP_PX, Math.min(left, innerWidth - offsetWidth - GAP_PX))}px`;
  }

  #clicked = ({ target }) => {
    const slug = target.closest("[data-slug]")?.dataset.slug;
    if (!slug) return;
    const button = this.#button;
    this.close();
    emit(button, "chat:retry", { message: this.#element.dataset.message, slug });
  };

  #keyPressed = (event) => {
    const action = {
      ArrowDown: () => this.#move(1),
      ArrowUp: () => this.#move(-1),
      Home: () => this.#items.at(0)?.focus(),
      End: () => this.#items.at(-1)?.focus(),
      Tab: this.close,
      Escape: this.close,
    }[event.key];
    if (!action || event.isComposing) return;
    if (event.key !== "Tab") event.preventDefault();
    event.stopPropagation();
    action();
  };

  #move(step) {
    const items = this.#items;
    const place = items.indexOf(document.activeElement);
    items[(place + step + items.length) % items.length]?.focus();
  }

  // The browser gives the focus back to where it was.
  #toggled = ({ newState }) => {
    if (newState === "closed") this.#button?.setAttribute("aria-expanded", "false");
  };
}

function menuItem({ slug, name }) {
  const item = cloneTemplate("menu-item-template");
  item.dataset.slug = slug;
  setText(part(item, "name"), name);
  return item;
}
