// The dialog in which a conversation is shared, brought up to date, and shared no more.

import { copyText } from "../helpers/clipboard.js";
import { part, setText } from "../helpers/elements.js";
import { expiryChoice, findingWords, shareWhen } from "../helpers/share_words.js";
import { SharingError } from "../models/sharing.js";

const COPIED_MS = 1_500;

export class ShareDialog {
  #element;
  #button;
  #chat;
  #sharing;
  #conversation = null;
  #share = null;

  constructor(element, { button, chat, sharing }) {
    this.#element = element;
    this.#button = button;
    this.#chat = chat;
    this.#sharing = sharing;
  }

  connect() {
    this.#button.addEventListener("click", this.#open);
    this.#element.addEventListener("click", this.#clicked);
    this.#part("form").addEventListener("submit", this.#submitted);
    for (const type of ["change", "opened", "named"]) this.#chat.addEventListener(type, this.#update);
    this.#update();
  }

  disconnect() {
    this.#element.close();
    this.#button.removeEventListener("click", this.#open);
    this.#element.removeEventListener("click", this.#clicked);
    this.#part("form").removeEventListener("submit", this.#submitted);
    for (const type of ["change", "opened", "named"]) this.#chat.removeEventListener(type, this.#update);
  }

  #part(name) {
    return part(this.#element, name);
  }

  #update = () => {
    const { view, conversation } = this.#chat;
    this.#button.hidden = conversation.id === null || view !== "shown";
  };

  #open = () => {
    this.#conversation = this.#chat.conversation.id;
    this.#element.showModal();
    this.#load();
  };

  #clicked = ({ target }) => {
    const pressed = target.closest("[data-part]")?.dataset.part;
    // A click on the dialog itself, not on something in it, is one on its backdrop.
    if (target === this.#element || pressed === "close") this.#element.close();
    else if (pressed === "copy") this.#copy();
    else if (pressed === "revoke") this.#revoke();
    else if (pressed === "again") this.#load();
    else if (pressed === "address") target.select();
  };

  async #load() {
    const conversation = this.#conversation;
    this.#showPart("waiting");
    try {
      const { share, found } = await this.#sharing.read(conversation);
      if (conversation !== this.#conversation) return;
      this.#showFound(found, share);
      this.#showShare(share);
      this.#showPart("form");
      (share ? this.#part("copy") : this.#part("save")).focus();
    } catch (error) {
      if (!(error instanceof SharingError)) throw error;
      setText(this.#part("failure"), error.message);
      this.#showPart("failed");
    }
  }

  #submitted = (event) => {
    event.preventDefault();
    const wasShared = this.#share !== null;
    this.#change(async () => {
      this.#showShare(await this.#sharing.save(this.#conversation, this.#choice()));
      this.#tell(wasShared ? "The link shows the conversation as it is now." : "The link is made.");
      return this.#part("copy");
    });
  };

  #revoke() {
    this.#change(async () => {
      await this.#sharing.revoke(this.#conversation);
      this.#showShare(null);
      this.#tell("The link is gone.");
      return this.#part("save");
    });
  }

  /** Runs a change that gives back what gets the focus; refused, it goes back to where it was. */
  async #change(action) {
    const buttons = [this.#part("save"), this.#part("revoke")];
    let focused = document.activeElement;
    for (const button of buttons) button.disabled = true;
    this.#part("error").hidden = true;
    try {
      focused = await action();
    } catch (error) {
      if (!(error instanceof SharingError)) throw error;
      setText(this.#part("error"), error.message);
      this.#part("error").hidden = false;
    } finally {
      for (const button of buttons) button.disabled = false;
      // A disabled button has lost the focus.
      focused.focus();
    }
  }

  async #copy() {
    const copied = await copyText(this.#share.address);
    setText(this.#part("copy"), copied ? "Copied" : "Select and copy");
    if (!copied) this.#part("address").select();
    setTimeout(() => setText(this.#part("copy"), "Copy link"), COPIED_MS);
  }

  #choice() {
    const form = new FormData(this.#part("form"));
    return {
      expiresInDays: form.get("expires") ? Number(form.get("expires")) : null,
      reasoning: form.has("reasoning"),
      masked: form.getAll("masked"),
    };
  }

  #showPart(shown) {
    for (const name of ["waiting", "form", "failed"]) this.#part(name).hidden = name !== shown;
    this.#part("error").hidden = true;
    this.#tell("");
  }

  #showShare(share) {
    this.#share = share;
    this.#part("there").hidden = share === null;
    this.#part("revoke").hidden = share === null;
    this.#part("save").classList.toggle("button--accent", share === null);
    setText(this.#part("save"), share ? "Update link" : "Create link");
    setText(this.#part("heading"), share ? "This conversation is shared" : "Share this conversation");
    if (!share) return;
    this.#part("address").value = share.address;
    this.#part("open").href = share.address;
    setText(this.#part("when"), shareWhen(share));
    this.#part("reasoning").checked = share.reasoning;
    this.#part("expires").value = expiryChoice(share);
  }

  // What was found is masked unless its owner says otherwise, or said so before. Kinds that were not found are asked for
  // too, unseen: an update by the list of shares masks what came later, as nobody looks at it then.
  #showFound(found, share) {
    this.#part("found").hidden = found.length === 0;
    for (const label of this.#part("found").querySelectorAll("label")) {
      const finding = found.find(({ kind }) => kind === label.dataset.kind);
      label.hidden = !finding;
      label.querySelector("input").checked = !share || share.masked.includes(label.dataset.kind);
      setText(part(label, "count"), finding ? findingWords(finding) : "");
      setText(part(label, "example"), finding?.example ?? "");
    }
  }

  #tell(sentence) {
    setText(this.#part("status"), sentence);
  }
}
