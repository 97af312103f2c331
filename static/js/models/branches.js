// What the reader does with the tree of the conversation on the screen. It sends "trouble" with detail {message}.

import { conversationResource, forksResource } from "../helpers/addresses.js";
import { ResourceError, sendResource } from "../helpers/resources.js";

const GONE = "That version is no longer there. Load the page again.";
const AWAY = "The other version could not be fetched. It is stored; the network or the server did not answer.";
const NOT_FORKED = "The new chat could not be made. The network or the server did not answer; try again.";
const STILL_WRITING = "That answer is still being written. Wait for it, or stop it, and try again.";
const CONFLICT = 409;

export class Branches extends EventTarget {
  #chat;
  #token;
  #isForking = false;

  /** `token` is the page's CSRF token. */
  constructor(chat, { token }) {
    super();
    this.#chat = chat;
    this.#token = token;
  }

  /** Shows the branch through a message, here and on the server; whether that went well. */
  async show(message) {
    const { conversation } = this.#chat;
    // What waits for the server at the end would be drawn under another branch.
    if (conversation.request !== null) return false;
    try {
      const stored = await sendResource(conversationResource(conversation.id), {
        method: "PATCH",
        body: { shown: message },
        token: this.#token,
      });
      return this.#chat.take(conversation, stored);
    } catch (error) {
      if (!(error instanceof ResourceError)) throw error;
      this.#tell(error.status === 404 ? GONE : AWAY);
      return false;
    }
  }

  /** Copies the branch down to a message into a conversation of its own: its Summary, or null. */
  async fork(message) {
    const { id } = this.#chat.conversation;
    // A second click would make a second copy.
    if (this.#isForking || id === null) return null;
    this.#isForking = true;
    try {
      return await sendResource(forksResource(id), { method: "POST", body: { message }, token: this.#token });
    } catch (error) {
      if (!(error instanceof ResourceError)) throw error;
      this.#tell(error.status === CONFLICT ? STILL_WRITING : NOT_FORKED);
      return null;
    } finally {
      this.#isForking = false;
    }
  }

  #tell(message) {
    this.dispatchEvent(new CustomEvent("trouble", { detail: { message } }));
  }
}
