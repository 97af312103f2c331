// What was refused, over the composer, until it is dismissed or the next message is sent.

import { part } from "../helpers/elements.js";

export class AlertLine {
  #element;

  constructor(element) {
    this.#element = element;
  }

  connect() {
    part(this.#element, "dismiss").addEventListener("click", this.hide);
  }

  disconnect() {
    part(this.#element, "dismiss").removeEventListener("click", this.hide);
  }

  show(sentence) {
    this.#element.hidden = false;
    this.#element.dataset.testid = "error";
    part(this.#element, "text").textContent = sentence;
  }

  hide = () => {
    this.#element.hidden = true;
    delete this.#element.dataset.testid;
  };
}
