// The conversation on the screen and what is asked in it. Events:
//   "change"   the conversation, or a generation in it, has changed
//   "asked"    a question, or another answer, has just been asked for
//   "opened"   another conversation is on the screen, or is being fetched for it
//   "named"    the conversation on the screen has got its id
//   "refused"  detail {conversation, question, content, code, message}: the server did not take a request; `content` is
//              null where nothing was written, `question` the key of the message that should have been edited, or null
//   "trouble"  detail {message}: the server refused something else

import { conversationResource } from "../helpers/addresses.js";
import { randomKey } from "../helpers/keys.js";
import { ResourceError, fetchResource, fetchUnlessAway } from "../helpers/resources.js";
import { Conversation } from "./conversation.js";

export class Chat extends EventTarget {
  conversation = new Conversation();
  /** Of the conversation that is being opened: "loading", "missing", "unreachable", or "shown". */
  view = "shown";
  #connection;
  #generations;
  #outbox;
  #summaries;
  #opening = null;
  #refreshing = new Map();

  constructor({ connection, generations, outbox, summaries }) {
    super();
    this.#connection = connection;
    this.#generations = generations;
    this.#outbox = outbox;
    this.#summaries = summaries;
    connection.addEventListener("open", () => this.#reconnected());
    connection.addEventListener("lost", () => this.#unsend());
    connection.addEventListener("frame", ({ detail }) => this.#receive(detail));
    generations.addEventListener("change", () => this.#changed());
  }

  /** Whether an answer is awaited, so that nothing more can be asked. */
  get busy() {
    return Boolean(this.conversation.running) || this.conversation.request !== null;
  }

  /** Whether the conversation of this id is on the screen; null is a new chat. */
  isShown(id) {
    return this.view === "shown" && this.conversation.id === id;
  }

  /** Shows a Conversation of docs/protocol.md that the page came with; null for a new chat. */
  show(stored) {
    this.#opening?.abort();
    this.conversation = new Conversation();
    this.view = "shown";
    if (stored) this.#merge(this.conversation, stored);
    this.dispatchEvent(new Event("opened"));
  }

  /** Fetches and shows a conversation; `view` tells how that goes. */
  async open(id) {
    if (this.isShown(id)) {
      this.refresh();
      return;
    }
    this.#opening?.abort();
    const opening = new AbortController();
    this.#opening = opening;
    this.conversation = new Conversation(id);
    this.conversation.title = this.#summaries.titleOf(id) ?? "";
    this.view = "loading";
    this.dispatchEvent(new Event("opened"));
    try {
      const stored = await fetchResource(conversationResource(id), { signal: opening.signal });
      this.show(stored);
      this.#readdPending();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ResourceError)) throw error;
      this.view = error.status === 404 ? "missing" : "unreachable";
      this.#changed();
    }
  }

  /** Asks; the question is on the screen at once and is sent as soon as it can be. */
  send({ content, model, modelName }) {
    this.#ask({ type: "send", content, model, modelName });
  }

  /** Asks the question with the key `message` in other words, beside it. */
  edit({ message, content, model, modelName }) {
    this.#ask({ type: "edit", message, content, model, modelName });
  }

  /** Asks for another answer beside the one with the key `message`. */
  regenerate({ message, model, modelName }) {
    this.#ask({ type: "regenerate", message, model, modelName });
  }

  /** Lets the answer with the key `message`, which was cut off, go on; with the model that began it. */
  goOn({ message }) {
    const { model } = this.conversation.find(message).generation;
    this.#ask({ type: "continue", message, model });
  }

  #ask({ key = randomKey(), frame = null, ...asked }) {
    const conversation = this.conversation;
    const entry = { ...asked, key, frame, conversation: conversation.id };
    if (entry.type === "continue") conversation.askForMore(entry);
    else conversation.ask(entry);
    this.#outbox.add({ ...entry, on: conversation });
    this.#flush();
    this.dispatchEvent(new Event("asked"));
    this.#changed();
  }

  /** Lets another model write the answer on the screen, which still waits. */
  move({ model, modelName }) {
    const running = this.conversation.running;
    if (running) this.#generations.move(running, { model, modelName });
  }

  /** Ends the answer on the screen. */
  stop() {
    const running = this.conversation.running;
    if (running) this.#generations.stop(running);
  }

  /** Sends again what an earlier page of this tab left unanswered, for this conversation or another. */
  resume(entry) {
    if (entry.conversation === this.conversation.id) this.#ask(entry);
    else this.#outbox.add({ ...entry, on: new Conversation(entry.conversation) });
  }

  /** Takes a conversation that was changed by a request of its own, as the server tells it; false where it is outdated. */
  take(conversation, stored) {
    if (conversation !== this.conversation || this.conversation.request !== null) return false;
    // A fetch that began before the change would bring the old state back.
    conversation.revision += 1;
    this.#merge(conversation, stored);
    this.#changed();
    return true;
  }

  /** Reads the conversation on the screen again; what may have been missed is in it. */
  refresh() {
    if (this.conversation.id && this.view === "shown") this.#refresh(this.conversation);
  }

  #receive(frame) {
    if (frame.type === "accepted") this.#accepted(frame);
    else if (frame.type === "error") this.#error(frame);
    else if (frame.type === "conversation") this.#conversationChanged(frame);
    else this.#generations.receive(frame);
  }

  #accepted(frame) {
    const entry = this.#outbox.take(frame.key);
    if (!entry) return;
    const conversation = entry.on;
    const isNew = conversation.id === null;
    conversation.accept(frame, (generation, id) => {
      const begun = this.#generations.begin(generation, id);
      if (generation.stopping) this.#generations.stop(begun);
      return begun;
    });
    if (isNew && conversation === this.conversation) this.dispatchEvent(new Event("named"));
    this.#refresh(conversation);
    this.#changed();
  }

  #error({ key, generation, code, message }) {
    const entry = key && this.#outbox.take(key);
    if (entry) {
      entry.on.withdraw(key);
      const { content = null, type } = entry;
      const question = type === "edit" ? entry.message : null;
      this.#tell("refused", { conversation: entry.on.id, question, content, code, message });
    } else {
      if (generation) this.#generations.refused(generation);
      this.#tell("trouble", { message });
    }
    this.#changed();
  }

  #conversationChanged({ conversation, title, answering, updated_at }) {
    this.#summaries.touch({ id: conversation, title, answering, updated_at });
    if (conversation === this.conversation.id) this.refresh();
  }

  #reconnected() {
    this.#flush();
    this.#followRunning();
  }

  // Once for each connection: the server follows an accepted generation from its start each time it is asked.
  #flush() {
    for (const entry of this.#outbox.entries().filter(({ sent }) => !sent)) {
      entry.frame ??= this.#frame(entry);
      if (entry.frame) entry.sent = this.#connection.send(entry.frame);
      else this.#refresh(entry.on);
    }
    this.#outbox.store();
  }

  #unsend() {
    for (const entry of this.#outbox.entries()) entry.sent = false;
  }

  /** The body of a request; null while the message that it answers has no known id. */
  #frame({ key, type, on, model, content }) {
    const subject = on.subjectOf(key);
    if (subject && subject.id === null) return null;
    const common = { type, key, conversation: on.id, model, options: {} };
    if (type === "send") return { ...common, parent: subject?.id ?? null, content };
    return { ...common, message: subject.id, ...(type === "edit" && { content }) };
  }

  /** One request at a time for each conversation, and once more where it changed meanwhile. */
  #refresh(conversation) {
    if (conversation.id === null) return;
    if (this.#refreshing.has(conversation)) {
      this.#refreshing.set(conversation, true);
      return;
    }
    this.#refreshing.set(conversation, false);
    this.#fetchAgain(conversation);
  }

  async #fetchAgain(conversation) {
    const { revision } = conversation;
    const stored = await fetchUnlessAway(conversationResource(conversation.id));
    const again = this.#refreshing.get(conversation) || revision !== conversation.revision;
    this.#refreshing.delete(conversation);
    if (stored === null) return;
    // Taken though it may be behind only where nothing was asked or accepted since: it would take that away.
    if (revision === conversation.revision) this.#merge(conversation, stored);
    if (again) this.#refresh(conversation);
    else this.#flushUnbuilt();
    this.#changed();
  }

  #flushUnbuilt() {
    if (this.#outbox.entries().some(({ frame }) => frame === null)) this.#flush();
  }

  #merge(conversation, stored) {
    conversation.merge(stored, (generation, text) => this.#generations.stored(generation, text));
    if (conversation === this.conversation) this.#followRunning();
  }

  #followRunning() {
    const running = this.conversation.running;
    if (running) this.#generations.follow(running);
  }

  // The reader went elsewhere and came back before the server had answered.
  #readdPending() {
    for (const entry of this.#outbox.entries()) {
      if (entry.conversation !== this.conversation.id || entry.content === undefined) continue;
      entry.on = this.conversation;
      this.conversation.ask(entry);
    }
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
