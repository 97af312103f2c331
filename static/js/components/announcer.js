// Tells a screen reader that an answer has begun and how it ended; the tokens between would drown everything else.

const ENDINGS = {
  done: "Answer finished",
  cancelled: "Answer stopped",
  interrupted: "Answer interrupted",
  failed: "The answer failed",
};

export class Announcer {
  #element;
  #chat;
  #last = null;

  constructor(element, { chat }) {
    this.#element = element;
    this.#chat = chat;
  }

  connect() {
    this.#chat.addEventListener("change", this.#update);
    this.#chat.addEventListener("opened", this.#opened);
  }

  disconnect() {
    this.#chat.removeEventListener("change", this.#update);
    this.#chat.removeEventListener("opened", this.#opened);
  }

  #opened = () => {
    this.#last = null;
    this.#element.textContent = "";
    this.#update();
  };

  #update = () => {
    const { conversation } = this.#chat;
    const generation = conversation.last?.generation;
    if (generation && !generation.final) {
      if (this.#last !== generation) this.#element.textContent = "Answering";
      this.#last = generation;
    } else if (generation && this.#last === generation) {
      this.#element.textContent = ENDINGS[generation.state];
      this.#last = null;
    }
  };
}
