// A question: plain text, as it was typed.

import { cloneTemplate, part, setText } from "../helpers/elements.js";
import { BranchSwitch } from "./branch_switch.js";

export class UserMessage {
  element = cloneTemplate("user-message-template");
  #text = part(this.element, "text");
  #branches = new BranchSwitch(part(this.element, "branches"));

  connect() {}

  disconnect() {
    this.element.remove();
  }

  update(message) {
    const { id, text, request } = message;
    this.element.dataset.messageId = id ?? "";
    this.element.toggleAttribute("data-pending", request !== null);
    this.element.rawText = text;
    setText(this.#text, text);
    this.#branches.update(message);
  }
}
