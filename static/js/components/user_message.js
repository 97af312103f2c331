// A question: plain text, as it was typed; and its editor, while it is being written again.

import { cloneTemplate, part, setText } from "../helpers/elements.js";
import { BranchSwitch } from "./branch_switch.js";

export class UserMessage {
  element = cloneTemplate("user-message-template");
  #text = part(this.element, "text");
  #foot = part(this.element, "foot");
  #edit = part(this.element, "edit");
  #branches = new BranchSwitch(part(this.element, "branches"));
  #drafts;
  #makeEditor;
  #message = null;
  #editor = null;

  /** `makeEditor` gives a MessageEditor for a message. */
  constructor({ drafts, makeEditor }) {
    this.#drafts = drafts;
    this.#makeEditor = makeEditor;
  }

  connect() {}

  disconnect() {
    this.#editor?.disconnect();
    this.element.remove();
  }

  update(message) {
    const { id, text, request } = message;
    const isNamed = id !== null && this.#message?.id !== id;
    this.#message = message;
    this.element.dataset.messageId = id ?? "";
    this.element.toggleAttribute("data-pending", request !== null);
    this.element.rawText = text;
    setText(this.#text, text);
    this.#branches.update(message);
    this.#edit.hidden = id === null;
    part(this.element, "fork").hidden = id === null;
    // Its editor was open when the page was left.
    if (isNamed && this.#drafts.isEditOpen(id)) this.#openEditor();
  }

  /** Opens the editor, with the draft where there is one. */
  startEditing() {
    if (this.#message.id === null) return;
    this.#openEditor();
    this.#editor.focus();
  }

  stopEditing() {
    this.#editor?.disconnect();
    this.#editor = null;
    this.#show(false);
    this.#edit.focus({ preventScroll: true });
  }

  #openEditor() {
    if (this.#editor) return;
    this.#editor = this.#makeEditor(this.#message);
    this.element.append(this.#editor.element);
    this.#show(true);
    this.#editor.connect();
  }

  #show(isEditing) {
    this.#text.hidden = isEditing;
    this.#foot.hidden = isEditing;
  }
}
