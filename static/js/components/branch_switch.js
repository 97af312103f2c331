// "‹ 2/3 ›" at a message that has siblings. At an end its button stays, so that the focus does.

import { part, setText } from "../helpers/elements.js";

export class BranchSwitch {
  #element;
  #previous;
  #next;

  constructor(element) {
    this.#element = element;
    this.#previous = part(element, "previous");
    this.#next = part(element, "next");
  }

  /** `siblings` are the ids of the messages that stand for each other, `id` among them. */
  update({ id, siblings }) {
    const place = siblings.indexOf(id);
    this.#element.hidden = siblings.length < 2;
    if (this.#element.hidden) return;
    setText(part(this.#element, "place"), `${place + 1}/${siblings.length}`);
    this.#element.setAttribute("aria-label", `Version ${place + 1} of ${siblings.length}`);
    lead(this.#previous, siblings[place - 1]);
    lead(this.#next, siblings[place + 1]);
  }

  /** Takes the focus over from the switch of a sibling, whose `side` button was pressed. */
  static focus(message, side) {
    part(message, side)?.focus({ preventScroll: true });
    message.scrollIntoView({ block: "nearest" });
  }
}

function lead(button, sibling) {
  button.dataset.message = sibling ?? "";
  button.setAttribute("aria-disabled", String(sibling === undefined));
}
