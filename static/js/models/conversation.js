// The messages of one conversation as the page knows them: what the server has stored, and what was asked just now.
//
// A message is {key, id, parent, siblings, role, text, generation, request}. `key` stays the same for as long as the page shows
// it; `id` is null until the server has told it; `request` is the key of the request that it waits for, or null. An
// assistant message's text is its generation's.

import { Generation } from "./generation.js";

export class Conversation {
  id;
  title = "";
  model = null;
  messages = [];
  /** Counts changes made here, so that an older answer of the server can be told from a newer one. */
  revision = 0;
  #replaced = new Map();

  constructor(id = null) {
    this.id = id;
  }

  get last() {
    return this.messages.at(-1);
  }

  /** The message of this key or id. */
  find(identity) {
    return this.messages.find(({ key, id }) => identity !== null && (key === identity || id === identity));
  }

  /** The generation that is on its way; undefined where the last answer is final or there is none. */
  get running() {
    const generation = this.last?.generation;
    return generation && !generation.final ? generation : undefined;
  }

  /** The key of the request at the end that the server has not answered. */
  get request() {
    return this.last?.request ?? null;
  }

  /**
   * Shows what is asked for before the server has heard of it: a question where there is `content`, and an empty answer;
   * at the end, or in place of the message with the key `message` and of all below it.
   */
  ask({ key, type, message, content, model, modelName }) {
    if (type !== "send") this.#replaced.set(key, this.messages.splice(this.#placeOf(message)));
    if (content != null) this.#add({ key, role: "user", text: content, request: key });
    const generation = new Generation({ model, modelName });
    this.#add({ key: `${key}:answer`, role: "assistant", text: "", request: key, generation });
  }

  /** What a request is about: for a new question the message before it, for any other the one it replaces. */
  subjectOf(key) {
    if (this.#replaced.has(key)) return this.#replaced.get(key)[0];
    return this.messages[this.messages.findIndex(({ request }) => request === key) - 1];
  }

  /** The server has stored the request. `begin` gives the generation of an id, or makes the given one it. */
  accept({ key, conversation, message, generation }, begin) {
    this.id ??= conversation;
    this.revision += 1;
    this.#replaced.delete(key);
    for (const pending of this.messages.filter(({ request }) => request === key)) {
      pending.request = null;
      if (pending.role === "user") pending.id = message;
      else pending.generation = begin(pending.generation, generation);
    }
    this.#dropTwins();
  }

  /** The server has refused the request: everything is as before it. */
  withdraw(key) {
    this.revision += 1;
    this.messages = this.messages.filter(({ request }) => request !== key);
    this.messages.push(...(this.#replaced.get(key) ?? []));
    this.#replaced.delete(key);
  }

  /** Takes what the server has stored; what it does not know yet stays at the end. */
  merge(stored, generationOf) {
    this.id = stored.id;
    this.title = stored.title;
    this.model = stored.model;
    const waiting = this.messages.filter(({ request }) => request !== null);
    const replaced = new Set(Array.from(this.#replaced.values()).flatMap((messages) => messages.map(({ id }) => id)));
    const kept = stored.messages.filter(({ id }) => !replaced.has(id));
    this.messages = [...kept.map((message) => this.#merged(message, generationOf)), ...waiting];
  }

  #merged({ id, parent, siblings, role, text, generation: stored }, generationOf) {
    const generation = stored && generationOf(stored, text);
    const known =
      this.messages.find((message) => message.id === id) ??
      (generation && this.messages.find((message) => message.generation === generation));
    return { key: known?.key ?? id, id, parent, siblings, role, text, generation, request: null };
  }

  // The end where it is not there: another branch is shown by now.
  #placeOf(message) {
    const place = this.messages.findIndex(({ key, id }) => key === message || id === message);
    return place === -1 ? this.messages.length : place;
  }

  #add(message) {
    this.revision += 1;
    this.messages.push({ id: null, parent: null, siblings: [], generation: null, ...message });
  }

  // A request sent again after a reload may be one whose messages the page came with.
  #dropTwins() {
    const seen = new Set();
    this.messages = this.messages.filter(({ id, generation }) => {
      const identity = id ?? generation?.id;
      const secondTime = identity !== null && (seen.has(identity) || seen.has(generation?.id));
      if (identity) seen.add(identity);
      if (generation?.id) seen.add(generation.id);
      return !secondTime;
    });
  }
}
