// What has been typed and not sent, for each conversation, for the new chat, and for each question that is being written
// again, across reloads.

import { readStored, writeStored } from "../helpers/storage.js";

// The question whose editor this tab has open.
const EDITING = "editing";

export class Drafts {
  read(conversation) {
    return readStored("localStorage", address(conversation)) ?? "";
  }

  write(conversation, text) {
    writeStored("localStorage", address(conversation), text === "" ? null : text);
  }

  /** The new wording of a question; null where it has none. */
  readEdit(message) {
    return readStored("localStorage", editAddress(message));
  }

  writeEdit(message, text) {
    writeStored("localStorage", editAddress(message), text);
  }

  isEditOpen(message) {
    return readStored("sessionStorage", EDITING) === message;
  }

  openEdit(message) {
    writeStored("sessionStorage", EDITING, message);
  }

  closeEdit() {
    writeStored("sessionStorage", EDITING, null);
  }

  /** Gives a text back that could not be sent, before what has been typed since. */
  giveBack(conversation, text) {
    const typed = this.read(conversation);
    this.write(conversation, typed.trim() ? `${text}\n\n${typed}` : text);
  }
}

function editAddress(message) {
  return `draft:edit:${message}`;
}

function address(conversation) {
  return `draft:${conversation ?? "new"}`;
}
