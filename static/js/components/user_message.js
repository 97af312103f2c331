// A question: plain text, as it was typed.

import { cloneTemplate, part, setText } from "../helpers/elements.js";

export class UserMessage {
  element = cloneTemplate("user-message-template");
  #text = part(this.element, "text");

  connect() {}

  disconnect() {
    this.element.remove();
  }

  update({ id, text, request }) {
    this.element.dataset.messageId = id ?? "";
    this.element.toggleAttribute("data-pending", request !== null);
    this.element.rawText = text;
    setText(this.#text, text);
  }
}
