// Which conversation the address names, without loading pages.

import { conversationOf, pageOf } from "../helpers/addresses.js";

export class Navigation {
  #chat;

  constructor(chat) {
    this.#chat = chat;
  }

  start() {
    window.addEventListener("popstate", () => {
      const conversation = conversationOf(location.pathname);
      // Following a link to a part of the page, such as the skip link, is an event of history too.
      if (!this.#chat.isShown(conversation)) this.#show(conversation);
    });
    // Replaced, not pushed: going back from a conversation should not lead to its own empty beginning.
    this.#chat.addEventListener("named", () => history.replaceState(null, "", pageOf(this.#chat.conversation.id)));
  }

  /** Goes to a conversation; null is a new chat. */
  go(conversation) {
    const address = pageOf(conversation);
    if (location.pathname !== address) history.pushState(null, "", address);
    this.#show(conversation);
  }

  #show(conversation) {
    if (conversation === null) this.#chat.show(null);
    else this.#chat.open(conversation);
  }
}
