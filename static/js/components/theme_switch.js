// Light, dark, or as the system. The page's head applies what is stored before the first paint.

import { readStored, writeStored } from "../helpers/storage.js";

const STORED_AS = "theme";

export class ThemeSwitch {
  #element;

  constructor(element) {
    this.#element = element;
  }

  connect() {
    this.#element.addEventListener("change", this.#changed);
    const stored = readStored("localStorage", STORED_AS);
    for (const radio of this.#element.querySelectorAll("input")) radio.checked = radio.value === (stored ?? "system");
  }

  disconnect() {
    this.#element.removeEventListener("change", this.#changed);
  }

  #changed = ({ target }) => {
    const isChosen = target.value !== "system";
    writeStored("localStorage", STORED_AS, isChosen ? target.value : null);
    if (isChosen) document.documentElement.dataset.theme = target.value;
    else delete document.documentElement.dataset.theme;
  };
}
