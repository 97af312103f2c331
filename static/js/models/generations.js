// Every generation this page hears of: follows them, feeds them the frames, and acknowledges what has come.
// It sends "change" with the generation as detail.

import { compareEventIds } from "../helpers/event_ids.js";
import { Generation } from "./generation.js";

// A UTF-16 unit is at most 3 bytes of UTF-8, so that 4096 of them stay under the 16 KiB of docs/protocol.md.
const ACKNOWLEDGE_AFTER_UNITS = 4096;
const ACKNOWLEDGE_AFTER_MS = 700;

export class Generations extends EventTarget {
  #connection;
  #byId = new Map();
  #followed = new Set();
  #refused = new Set();
  #unacknowledged = new Map();
  #unacknowledgedUnits = 0;
  #timer = null;

  constructor(connection) {
    super();
    this.#connection = connection;
    connection.addEventListener("lost", () => this.#forgetConnection());
  }

  /** Whether frames are due: the connection is dead where none comes. */
  get expectsFrames() {
    return Array.from(this.#followed).some((id) => this.#byId.get(id)?.final === false);
  }

  /** The generation that a stored message carries, with what is newer here than there kept. */
  stored(stored, text) {
    const known = this.#byId.get(stored.id);
    if (known && !this.#isNewer(stored, known)) return known;
    const generation = known ?? new Generation({ id: stored.id });
    this.#byId.set(stored.id, generation);
    generation.adopt(stored, text);
    return generation;
  }

  /** The server has accepted the request of this generation, and sends it from its start without being asked. */
  begin(generation, id) {
    const known = this.#byId.get(id) ?? generation;
    known.id = id;
    if (!known.final) known.restart();
    this.#byId.set(id, known);
    this.#followed.add(id);
    return known;
  }

  /** Asks for what is still to come of it, once for each connection. */
  follow(generation) {
    const { id } = generation;
    if (generation.final || id === null || this.#followed.has(id) || this.#refused.has(id)) return;
    if (this.#connection.send({ type: "follow", generation: id, after: generation.cursor })) {
      this.#followed.add(id);
      if (generation.stopping) this.stop(generation);
    }
  }

  /** Ends it; asked again after a reconnection, until it is final. */
  stop(generation) {
    generation.stopping = true;
    if (generation.id !== null) {
      this.#connection.send({ type: "stop", generation: generation.id, seen: generation.cursor });
    }
    this.#changed(generation);
  }

  /** Lets another model answer what still waits; said at once, and taken back where the server refuses. */
  move(generation, { model, modelName }) {
    if (generation.id === null || generation.state !== "queued") return;
    if (!this.#connection.send({ type: "move", generation: generation.id, model })) return;
    generation.moveTo({ model, modelName });
    this.#changed(generation);
  }

  receive(frame) {
    if (frame.type === "delta" || frame.type === "replace") this.#acknowledge(frame);
    const generation = this.#byId.get(frame.generation);
    if (!generation) return;
    if (generation.apply(frame)) this.#changed(generation);
    if (frame.type === "done") this.#followed.delete(generation.id);
  }

  /** The server refused to let this one be moved, stopped or followed; the last is not asked again on this connection. */
  refused(id) {
    const generation = this.#byId.get(id);
    if (generation?.moveBack()) {
      this.#changed(generation);
      return;
    }
    if (generation?.stopping) {
      generation.stopping = false;
      return;
    }
    this.#followed.delete(id);
    this.#refused.add(id);
  }

  /**
   * While this page follows a generation, its saved text is older than what was streamed, or newer than the deltas on
   * their way, which would then be added twice: only an outcome is taken.
   */
  #isNewer(stored, known) {
    if (known.final || isFinal(stored)) return isFinal(stored);
    return !this.#followed.has(known.id) && compareEventIds(stored.cursor, known.cursor) > 0;
  }

  #changed(generation) {
    this.dispatchEvent(new CustomEvent("change", { detail: generation }));
  }

  // On arrival, not when shown: a hidden page draws no frames, and the server would close its connection.
  #acknowledge(frame) {
    this.#unacknowledged.set(frame.generation, frame.id);
    this.#unacknowledgedUnits += frame.text.length;
    if (this.#unacknowledgedUnits >= ACKNOWLEDGE_AFTER_UNITS) this.#sendAcknowledgements();
    else this.#timer ??= setTimeout(() => this.#sendAcknowledgements(), ACKNOWLEDGE_AFTER_MS);
  }

  #sendAcknowledgements() {
    for (const [generation, id] of this.#unacknowledged) this.#connection.send({ type: "ack", generation, id });
    this.#clearAcknowledgements();
  }

  #clearAcknowledgements() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#unacknowledged.clear();
    this.#unacknowledgedUnits = 0;
  }

  #forgetConnection() {
    this.#followed.clear();
    this.#refused.clear();
    this.#clearAcknowledgements();
  }
}

function isFinal({ state }) {
  return state !== "queued" && state !== "running";
}
