// One quiet line over the composer while the connection is away.

import { emit, part, setText } from "../helpers/elements.js";

// Most losses are over before anybody should be told of them.
const QUIET_MS = 1_000;
const SENTENCES = {
  connected: "",
  connecting: "Reconnecting… your text is safe.",
  offline: "You’re offline. Your text is safe and is sent when the network is back.",
  expired: "The server does not know this page any more. Your text is safe; reload to go on.",
};

export class ConnectionLine {
  #element;
  #connection;
  #timer = null;

  constructor(element, { connection }) {
    this.#element = element;
    this.#connection = connection;
  }

  connect() {
    this.#connection.addEventListener("state", this.#update);
    part(this.#element, "reload").addEventListener("click", this.#reload);
    this.#update();
  }

  disconnect() {
    this.#connection.removeEventListener("state", this.#update);
    part(this.#element, "reload").removeEventListener("click", this.#reload);
    clearTimeout(this.#timer);
  }

  #update = () => {
    const { state } = this.#connection;
    this.#element.dataset.state = state;
    clearTimeout(this.#timer);
    if (state === "connecting") this.#timer = setTimeout(() => this.#show(state), QUIET_MS);
    else this.#show(state);
  };

  #show(state) {
    setText(part(this.#element, "text"), SENTENCES[state]);
    part(this.#element, "reload").hidden = state !== "expired";
  }

  #reload = () => emit(this.#element, "chat:reload");
}
