// The conversation's title, over the text and in the browser's tab.

import { setText } from "../helpers/elements.js";

export class PageTitle {
  #element;
  #chat;
  #summaries;

  constructor(element, { chat, summaries }) {
    this.#element = element;
    this.#chat = chat;
    this.#summaries = summaries;
  }

  connect() {
    for (const type of ["change", "opened", "named"]) this.#chat.addEventListener(type, this.#update);
    this.#summaries.addEventListener("change", this.#update);
    this.#update();
  }

  disconnect() {
    for (const type of ["change", "opened", "named"]) this.#chat.removeEventListener(type, this.#update);
    this.#summaries.removeEventListener("change", this.#update);
  }

  #update = () => {
    const { id, title } = this.#chat.conversation;
    const known = title || (id && this.#summaries.titleOf(id)) || "";
    setText(this.#element, known || "New chat");
    // Over an empty page the words would only repeat it.
    this.#element.classList.toggle("visually-hidden", known === "");
    const wanted = known ? `${known} · Lambda Chat` : "Lambda Chat";
    if (document.title !== wanted) document.title = wanted;
  };
}
