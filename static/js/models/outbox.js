// Requests the server has not answered yet. Each keeps its key and, once sent, its exact body, so that sending it
// again after a lost connection or a reload does nothing twice. What a person wrote outlives a reload in sessionStorage.

import { readStored, writeStored } from "../helpers/storage.js";

const STORED_AS = "outbox";

export class Outbox {
  #entries = new Map();

  /**
   * `entry` holds `key`, `type` ("send", "edit", "regenerate" or "continue"), `conversation` (id or null), `model`, `content`
   * (send, edit), `message` (all but send) and `frame`, which is null until it can be built: the message it is about may
   * have no known id yet.
   */
  add(entry) {
    this.#entries.set(entry.key, entry);
    this.store();
  }

  /** The entry of an answered request, which is forgotten; undefined where the key is not ours. */
  take(key) {
    const entry = this.#entries.get(key);
    this.#entries.delete(key);
    this.store();
    return entry;
  }

  entries() {
    return Array.from(this.#entries.values());
  }

  store() {
    const written = this.entries().filter(({ content }) => content !== undefined);
    // After a reload a message is known by its id alone, which the frame names.
    const plain = written.map(({ key, type, conversation, model, content, frame }) => {
      return { key, type, conversation, model, content, frame, message: frame?.message };
    });
    writeStored("sessionStorage", STORED_AS, plain.length ? JSON.stringify(plain) : null);
  }

  /** What an earlier page of this tab left unanswered. */
  static stored() {
    return JSON.parse(readStored("sessionStorage", STORED_AS) ?? "[]");
  }
}
