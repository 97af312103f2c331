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
  #continued = new Map();

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

  /** The generation that is on its way; undefined where there is none. */
  get running() {
    return this.messages.findLast(({ generation }) => generation && !generation.final)?.generation;
  }

  /** The key of the request that the server has not answered. */
  get request() {
    return this.messages.findLast(({ request }) => request !== null)?.request ?? null;
  }

  /** Shows an answer as one that goes on, before the server has heard of it. */
  askForMore({ key, message }) {
    const answer = this.find(message);
    this.#continued.set(key, answer.generation);
    answer.generation = answer.generation.continuation();
    answer.request = key;
    this.revision += 1;
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

  /** What a request is about: the message before a new question, the one that goes on, or the one that is replaced. */
  subjectOf(key) {
    if (this.#replaced.has(key)) return this.#replaced.get(key)[0];
    if (this.#continued.has(key)) return this.messages.find(({ request }) => request === key);
    return this.messages[this.messages.findIndex(({ request }) => request === key) - 1];
  }

  /** The server has stored the request. `begin` gives the generation of an id, or makes the given one it. */
  accept({ key, conversation, message, generation }, begin) {
    this.id ??= conversation;
    this.revision += 1;
    this.#replaced.delete(key);
    this.#continued.delete(key);
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
    if (this.#continued.has(key)) {
      const answer = this.subjectOf(key);
      answer.generation = this.#continued.get(key);
      answer.request = null;
      this.#continued.delete(key);
      return;
    }
    this.messages = this.messages.filter(({ request }) => request !== key);
    this.messages.push(...(this.#replaced.get(key) ?? []));
    this.#replaced.delete(key);
  }

  /** Takes what the server has stored; what it does not know yet stays at the end. */
  merge(stored, generationOf) {
    this.id = stored.id;
    this.title = stored.title;
    this.model = stored.model;
    const waiting = this.messages.filter(({ request }) => request !== null && !this.#continued.has(request));
    const replaced = new Set(Array.from(this.#replaced.values()).flatMap((messages) => messages.map(({ id }) => id)));
    const kept = stored.messages.filter(({ id }) => !replaced.has(id));
    this.messages = [...kept.map((message) => this.#merged(message, generationOf)), ...waiting];
  }

  #merged({ id, parent, siblings, role, text, generation: stored }, generationOf) {
    const generation = stored && generationOf(stored, text);
    const known =
      this.messages.find((message) => message.id === id) ??
      (generation && this.messages.find((message) => message.generation === generation));
    const message = { key: known?.key ?? id, id, parent, siblings, role, text, generation, request: null };
    // One that goes on, of which the server has not told yet.
    if (known?.request) Object.assign(message, { generation: known.generation, request: known.request });
    return message;
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
