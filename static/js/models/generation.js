// One answer as it is made: the text assembled from events, each taken once, and what became of it.

import { compareEventIds } from "../helpers/event_ids.js";

const FINAL_STATES = new Set(["done", "cancelled", "interrupted", "failed"]);

export class Generation {
  id = null;
  state = "queued";
  model = "";
  modelName = "";
  text = "";
  reasoning = "";
  /** The id of the last event that `text` and `reasoning` hold; null before the first. */
  cursor = null;
  position = null;
  /** Seconds until it begins, as the server estimates; null where it cannot. */
  etaS = null;
  finishReason = null;
  error = null;
  usage = null;
  ttftMs = null;
  tokensPerS = null;
  droppedMessages = 0;
  stopping = false;
  #before = null;
  /** Whether it goes on with the text of another, which stays until the server sends the whole. */
  #goesOn = false;

  constructor({ id = null, model = "", modelName = "" }) {
    this.id = id;
    this.model = model;
    this.modelName = modelName;
  }

  /** What stands for this one while its answer goes on: a generation with all its text, and nothing new yet. */
  continuation() {
    const next = new Generation(this);
    next.id = null;
    next.text = this.text;
    next.reasoning = this.reasoning;
    next.droppedMessages = this.droppedMessages;
    next.#goesOn = true;
    return next;
  }

  get final() {
    return FINAL_STATES.has(this.state);
  }

  /** Takes what the server has stored: a Generation of docs/protocol.md and its message's text. */
  adopt(stored, text) {
    this.id = stored.id;
    this.state = stored.state;
    this.model = stored.model;
    this.modelName = stored.model_name;
    this.text = text;
    this.reasoning = stored.reasoning;
    this.cursor = stored.cursor;
    this.droppedMessages = stored.dropped_messages;
    this.#takeOutcome(stored);
  }

  /** Another model is to answer what still waits; `moveBack` undoes that where the server refuses. */
  moveTo({ model, modelName }) {
    this.#before = { model: this.model, modelName: this.modelName };
    Object.assign(this, { model, modelName, position: null, etaS: null });
  }

  moveBack() {
    if (this.#before === null) return false;
    Object.assign(this, this.#before);
    this.#before = null;
    return true;
  }

  /** The server sends it again from the first character. */
  restart() {
    this.cursor = null;
    if (this.#goesOn) return;
    this.text = "";
    this.reasoning = "";
  }

  /** Takes a frame of this generation; false where it tells nothing new. */
  apply(frame) {
    if (this.final) return false;
    this.#before = null;
    if (frame.type === "queued") return this.#queue(frame);
    if (frame.type === "done") return this.#finish(frame);
    if (compareEventIds(frame.id, this.cursor) <= 0) return false;
    this.cursor = frame.id;
    this.state = "running";
    this.position = null;
    if (frame.type === "started") this.droppedMessages = frame.dropped_messages;
    else if (frame.type === "delta") this.#append(frame);
    else if (frame.type === "replace") this.#replace(frame);
    return true;
  }

  #queue(frame) {
    if (this.state !== "queued" || (this.position === frame.position && this.etaS === frame.eta_s)) return false;
    this.position = frame.position;
    this.etaS = frame.eta_s;
    return true;
  }

  #append({ channel, text }) {
    if (channel === "reasoning") this.reasoning += text;
    else this.text += text;
  }

  #replace({ text, reasoning }) {
    this.text = text;
    this.reasoning = reasoning ?? "";
  }

  #finish(frame) {
    this.state = frame.state;
    this.cursor = frame.id ?? this.cursor;
    this.droppedMessages = frame.dropped_messages ?? this.droppedMessages;
    this.#takeOutcome(frame);
    return true;
  }

  #takeOutcome({ finish_reason, error, usage, ttft_ms, tokens_per_s }) {
    this.finishReason = finish_reason;
    this.error = error;
    this.usage = usage;
    this.ttftMs = ttft_ms;
    this.tokensPerS = tokens_per_s;
    if (this.final) this.stopping = false;
  }
}
