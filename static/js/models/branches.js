// What the reader does with the tree of the conversation on the screen. It sends "trouble" with detail {message}.

import { conversationResource } from "../helpers/addresses.js";
import { ResourceError, sendResource } from "../helpers/resources.js";

const GONE = "That version is no longer there. Load the page again.";
const AWAY = "The other version could not be fetched. It is stored; the network or the server did not answer.";

export class Branches extends EventTarget {
  #chat;
  #token;

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
      const sentence = error.status === 404 ? GONE : AWAY;
      this.dispatchEvent(new CustomEvent("trouble", { detail: { message: sentence } }));
      return false;
    }
  }
}
