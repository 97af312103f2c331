// An answer: who gives it, what is known while it is awaited, its text, and how it ended.

import { cloneTemplate, part, setText } from "../helpers/elements.js";
import { count, formatFigures, formatWait, ordinal } from "../helpers/format.js";
import { BranchSwitch } from "./branch_switch.js";
import { RichText } from "./rich_text.js";

const TRY_AGAIN = new Set(["failed", "interrupted"]);

export class AssistantMessage {
  element = cloneTemplate("assistant-message-template");
  #parts = new Map();
  #richText;
  #branches = new BranchSwitch(part(this.element, "branches"));

  /** `key` names the message to the renderer. */
  constructor({ key, renderer }) {
    for (const element of this.element.querySelectorAll("[data-part]")) {
      this.#parts.set(element.dataset.part, element);
    }
    this.#richText = new RichText(part(this.element, "text"), { renderer, id: key });
  }

  connect() {
    this.#richText.connect();
  }

  disconnect() {
    this.#richText.disconnect();
    this.element.remove();
  }

  /** `isBusy` tells that nothing can be asked for now; `free` is a model that would begin at once. */
  update(message, { isBusy, free }) {
    const { id, generation } = message;
    const { element } = this;
    element.dataset.messageId = id ?? "";
    element.dataset.state = generation.state;
    element.rawText = generation.text;
    element.setAttribute("aria-label", `Answer of ${generation.modelName}`);
    setText(this.#part("by"), generation.modelName);
    this.#richText.show(generation.text);
    this.#updateNotice(generation);
    this.#updateReasoning(generation);
    this.#updateWaiting(generation, free);
    this.#updateOutcome(generation, isBusy);
    this.#updateFoot(message, isBusy);
  }

  #part(name) {
    return this.#parts.get(name);
  }

  #updateNotice({ droppedMessages }) {
    const notice = this.#part("notice");
    show(notice, droppedMessages > 0, "notice");
    setText(this.#part("notice-text"), droppedMessages > 0 ? droppedSentence(droppedMessages) : "");
  }

  #updateReasoning({ reasoning, text, final }) {
    this.#part("reasoning").hidden = reasoning === "";
    setText(this.#part("reasoning-label"), text === "" && !final ? "Thinking" : "Thoughts");
    setText(this.#part("reasoning-text"), reasoning);
  }

  #updateWaiting(generation, free) {
    const { state, position, etaS, text, final, stopping } = generation;
    const isWaiting = !final && (text === "" || state === "queued");
    this.#part("waiting").hidden = !isWaiting;
    let sentence = "";
    if (stopping) sentence = "Stopping…";
    else if (state === "queued" && position !== null) sentence = placeInLine(position, etaS);
    setText(this.#part("waiting-text"), sentence);
    const move = this.#part("move");
    move.hidden = !(isWaiting && state === "queued" && position !== null && !stopping && free);
    if (free) {
      move.dataset.model = free.slug;
      setText(move, `Start now with ${free.name}`);
    }
    this.element.ariaBusy = String(!final);
  }

  #updateOutcome(generation, isBusy) {
    const outcome = this.#part("outcome");
    const sentence = outcomeSentence(generation);
    show(outcome, sentence !== "", generation.state === "failed" ? "error" : "notice");
    outcome.dataset.kind = generation.state;
    setText(this.#part("outcome-text"), sentence);
    this.#part("outcome-retry").hidden = !TRY_AGAIN.has(generation.state);
    this.#part("outcome-retry").disabled = isBusy;
    this.#part("continue").hidden = !wasCutOff(generation);
    this.#part("continue").disabled = isBusy;
    this.#part("edit").hidden = generation.error?.code !== "context_exceeded";
  }

  #updateFoot(message, isBusy) {
    const { generation, siblings } = message;
    this.#part("foot").hidden = siblings.length < 2 && !generation.final;
    this.#part("actions").hidden = !generation.final;
    this.#branches.update(message);
    this.#part("copy").hidden = generation.text === "";
    // Where the outcome offers it in words, a second button would only repeat it.
    this.#part("retry").hidden = TRY_AGAIN.has(generation.state);
    for (const name of ["retry", "choose"]) this.#part(name).disabled = isBusy;
    setText(this.#part("figures"), formatFigures(generation));
  }
}

/** Whether it may go on; the server knows in full, and says so where it may not. */
function wasCutOff({ state, finishReason, text }) {
  if (text === "") return false;
  return state === "cancelled" || state === "interrupted" || finishReason === "length";
}

function droppedSentence(dropped) {
  const what = dropped === 1 ? "first message no longer fits" : `first ${count(dropped, "message")} no longer fit`;
  return `The ${what} into this model’s context and ${dropped === 1 ? "was" : "were"} left out.`;
}

function placeInLine(position, etaS) {
  const place = position === 1 ? "Next in line" : `${ordinal(position)} in line`;
  return etaS === null ? place : `${place}, ${formatWait(etaS)}`;
}

function outcomeSentence({ state, error, finishReason, text }) {
  if (state === "cancelled") return text === "" ? "Stopped before the first word." : "Stopped";
  if (state === "interrupted") return interruptedSentence(text);
  if (state === "failed") return error?.message ?? "The answer failed. Your message is stored; try again.";
  if (finishReason === "length") return "Reached the length limit.";
  return "";
}

function interruptedSentence(text) {
  if (text === "") return "The model’s worker stopped before the first word.";
  return "The model’s worker stopped in mid-answer. What it wrote is kept: let it continue, or try again.";
}

/** The hook for tests is there only with what it names. */
function show(element, isShown, hook) {
  element.hidden = !isShown;
  if (isShown) element.dataset.testid = hook;
  else delete element.dataset.testid;
}
