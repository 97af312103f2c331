// Requests the server has not answered yet. Each keeps its key and, once sent, its exact body, so that sending it
// again after a lost connection or a reload does nothing twice. Sends outlive a reload in sessionStorage.

import { readStored, writeStored } from "../helpers/storage.js";

const STORED_AS = "outbox";

export class Outbox {
  #entries = new Map();

  /**
   * `entry` holds `key`, `type` ("send" or "regenerate"), `conversation` (id or null), `model`, `content` (send) and
   * `frame`, which is null until it can be built: the message it answers may have no known id yet.
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
    const sends = this.entries().filter(({ type }) => type === "send");
    const plain = sends.map(({ key, type, conversation, model, content, frame }) => ({
      key,
      type,
      conversation,
      model,
      content,
      frame,
    }));
    writeStored("sessionStorage", STORED_AS, plain.length ? JSON.stringify(plain) : null);
  }

  /** What an earlier page of this tab left unanswered. */
  static stored() {
    return JSON.parse(readStored("sessionStorage", STORED_AS) ?? "[]");
  }
}
