// The box a message is written in, with the one button that sends or stops.

import { emit, part, setText } from "../helpers/elements.js";
import { formatContext } from "../helpers/format.js";
import { ENTER_KEY_HINT, isComposing, meansSend } from "../helpers/keyboard.js";
import { cleanText, lengthProblem } from "../helpers/text.js";
import { fitToText } from "../helpers/textarea.js";

export class Composer {
  #form;
  #textarea;
  #button;
  #hint;
  #chat;
  #catalog;
  #drafts;
  #limits;
  #tooLong = "";
  #compositionEndedAt = -Infinity;

  constructor(form, { chat, catalog, drafts, limits }) {
    this.#form = form;
    this.#textarea = form.querySelector("textarea");
    this.#button = part(form, "send");
    this.#hint = part(form, "hint");
    this.#chat = chat;
    this.#catalog = catalog;
    this.#drafts = drafts;
    this.#limits = limits;
  }

  connect() {
    this.#form.addEventListener("submit", this.#submitted);
    this.#textarea.addEventListener("input", this.#typed);
    this.#textarea.addEventListener("keydown", this.#keyPressed);
    this.#textarea.addEventListener("compositionend", this.#composed);
    this.#chat.addEventListener("change", this.#update);
    this.#chat.addEventListener("opened", this.readDraft);
    this.#catalog.addEventListener("change", this.#update);
    window.addEventListener("resize", this.#grow);
    this.#textarea.enterKeyHint = ENTER_KEY_HINT;
    this.#adoptEarlyText();
  }

  disconnect() {
    this.#form.removeEventListener("submit", this.#submitted);
    this.#textarea.removeEventListener("input", this.#typed);
    this.#textarea.removeEventListener("keydown", this.#keyPressed);
    this.#textarea.removeEventListener("compositionend", this.#composed);
    this.#chat.removeEventListener("change", this.#update);
    this.#chat.removeEventListener("opened", this.readDraft);
    this.#catalog.removeEventListener("change", this.#update);
    window.removeEventListener("resize", this.#grow);
  }

  focus() {
    this.#textarea.focus({ preventScroll: true });
  }

  /** Puts a text into the box, before what is there. */
  giveBack(text) {
    this.#drafts.giveBack(this.#conversation, text);
    this.readDraft();
    this.focus();
  }

  /** Shows the draft of the conversation on the screen. */
  readDraft = () => {
    this.#textarea.value = this.#drafts.read(this.#conversation);
    this.#changed();
  };

  get #conversation() {
    return this.#chat.conversation.id;
  }

  // What was typed before the scripts had come is a draft too.
  #adoptEarlyText() {
    const early = this.#textarea.value;
    if (early !== "" && early !== this.#drafts.read(this.#conversation)) this.#drafts.write(this.#conversation, early);
    this.readDraft();
  }

  #submitted = (event) => {
    event.preventDefault();
    if (this.#button.dataset.mode === "stop") emit(this.#form, "chat:stop");
    else this.#send();
  };

  #send() {
    if (this.#reasonNotToSend() !== "") return;
    const content = cleanText(this.#textarea.value);
    this.#drafts.write(this.#conversation, "");
    this.#textarea.value = "";
    this.#changed();
    emit(this.#form, "chat:send", { content });
  }

  #typed = () => {
    this.#drafts.write(this.#conversation, this.#textarea.value);
    this.#changed();
  };

  #composed = ({ timeStamp }) => {
    this.#compositionEndedAt = timeStamp;
  };

  #keyPressed = (event) => {
    if (isComposing(event, this.#compositionEndedAt) || !meansSend(event)) return;
    event.preventDefault();
    this.#send();
  };

  #changed() {
    this.#tooLong = lengthProblem(this.#textarea.value, this.#limits.message_bytes);
    this.#grow();
    this.#update();
  }

  #grow = () => fitToText(this.#textarea);

  #update = () => {
    const running = this.#chat.busy;
    const reason = this.#reasonNotToSend();
    this.#button.dataset.mode = running ? "stop" : "send";
    this.#button.disabled = running ? Boolean(this.#chat.conversation.running?.stopping) : reason !== "";
    const label = running ? "Stop" : "Send";
    this.#button.setAttribute("aria-label", label);
    this.#button.title = !running && reason ? reason : label;
    this.#updateHint(running);
  };

  #updateHint(running) {
    const hasText = this.#textarea.value.trim() !== "";
    const waits = running && hasText ? "You can send this when the answer is done." : "";
    this.#hint.toggleAttribute("data-problem", this.#tooLong !== "");
    setText(this.#hint, this.#tooLong || waits || this.#contextUsed());
  }

  /** How much of the model's context the conversation fills, from the figures of its last answer. */
  #contextUsed() {
    const usage = this.#chat.conversation.last?.generation?.usage;
    const length = this.#catalog.chosen?.context_length;
    if (!usage || !length) return "";
    const percent = Math.round(((usage.prompt_tokens + usage.completion_tokens) / length) * 100);
    return `${Math.min(percent, 100)} % of ${formatContext(length)} context`;
  }

  #reasonNotToSend() {
    if (this.#chat.view !== "shown") return "The conversation is not open yet";
    if (this.#chat.busy) return "Wait for the answer, or stop it";
    if (this.#textarea.value.trim() === "") return "Write a message first";
    if (!this.#catalog.chosen) return "No model is set up";
    return this.#tooLong;
  }
}
