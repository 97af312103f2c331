// What has been typed and not sent, for each conversation and for the new chat, across reloads.

import { readStored, writeStored } from "../helpers/storage.js";

export class Drafts {
  read(conversation) {
    return readStored("localStorage", address(conversation)) ?? "";
  }

  write(conversation, text) {
    writeStored("localStorage", address(conversation), text === "" ? null : text);
  }

  /** Gives a text back that could not be sent, before what has been typed since. */
  giveBack(conversation, text) {
    const typed = this.read(conversation);
    this.write(conversation, typed.trim() ? `${text}\n\n${typed}` : text);
  }
}

function address(conversation) {
  return `draft:${conversation ?? "new"}`;
}
