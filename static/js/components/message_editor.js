// A question that is being written again in its own place. What is typed is a draft from the first key on: leaving the
// editor, or the page, loses nothing.

import { cloneTemplate, emit, part, setText } from "../helpers/elements.js";
import { ENTER_KEY_HINT, isComposing, meansSend } from "../helpers/keyboard.js";
import { cleanText, lengthProblem } from "../helpers/text.js";
import { fitToText } from "../helpers/textarea.js";

export class MessageEditor {
  element = cloneTemplate("message-editor-template");
  #textarea = this.element.querySelector("textarea");
  #send = part(this.element, "send");
  #hint = part(this.element, "hint");
  #compositionEndedAt = -Infinity;
  #chat;
  #drafts;
  #limits;
  #message;

  /** `message` is the question as it stands: {key, id, text}. */
  constructor({ chat, drafts, limits, message }) {
    this.#chat = chat;
    this.#drafts = drafts;
    this.#limits = limits;
    this.#message = message;
  }

  connect() {
    this.element.addEventListener("submit", this.#submitted);
    this.#textarea.addEventListener("input", this.#typed);
    this.#textarea.addEventListener("compositionend", this.#composed);
    this.element.addEventListener("keydown", this.#keyPressed);
    part(this.element, "cancel").addEventListener("click", this.#cancel);
    this.#chat.addEventListener("change", this.#update);
    window.addEventListener("resize", this.#grow);
    this.#textarea.enterKeyHint = ENTER_KEY_HINT;
    this.#textarea.value = this.#drafts.readEdit(this.#message.id) ?? this.#message.text;
    this.#drafts.openEdit(this.#message.id);
    this.#changed();
  }

  disconnect() {
    this.#chat.removeEventListener("change", this.#update);
    window.removeEventListener("resize", this.#grow);
    this.element.remove();
  }

  focus() {
    this.#textarea.focus();
    this.#textarea.setSelectionRange(this.#textarea.value.length, this.#textarea.value.length);
    this.element.scrollIntoView({ block: "nearest" });
  }

  #submitted = (event) => {
    event.preventDefault();
    if (this.#problem() !== "") return;
    const content = cleanText(this.#textarea.value);
    this.#drafts.closeEdit();
    this.#drafts.writeEdit(this.#message.id, null);
    emit(this.element, "chat:reword", { message: this.#message.key, content });
  };

  #cancel = () => {
    this.#drafts.closeEdit();
    emit(this.element, "chat:leave-editor", { message: this.#message.key });
  };

  #typed = () => {
    const { value } = this.#textarea;
    this.#drafts.writeEdit(this.#message.id, value === this.#message.text ? null : value);
    this.#changed();
  };

  #composed = ({ timeStamp }) => {
    this.#compositionEndedAt = timeStamp;
  };

  #keyPressed = (event) => {
    if (isComposing(event, this.#compositionEndedAt)) return;
    if (event.key === "Escape") {
      // Not the key that stops an answer, here.
      event.preventDefault();
      event.stopPropagation();
      this.#cancel();
    } else if (event.target === this.#textarea && meansSend(event)) {
      event.preventDefault();
      this.element.requestSubmit();
    }
  };

  #changed() {
    this.#grow();
    this.#update();
  }

  #grow = () => fitToText(this.#textarea);

  #update = () => {
    const tooLong = lengthProblem(this.#textarea.value, this.#limits.message_bytes);
    const problem = this.#problem();
    this.#send.disabled = problem !== "";
    this.#send.title = problem;
    this.#hint.toggleAttribute("data-problem", tooLong !== "");
    setText(this.#hint, tooLong || (this.#chat.busy ? problem : ""));
  };

  #problem() {
    if (this.#chat.busy) return "You can send this when the answer is done.";
    if (this.#textarea.value.trim() === "") return "Write a message first";
    return lengthProblem(this.#textarea.value, this.#limits.message_bytes);
  }
}
