// The share of a conversation, as the server has it (docs/protocol.md).

import { shareResource } from "../helpers/addresses.js";

const AWAY = "The server could not be reached. Nothing was changed; try again in a moment.";

/** A refusal, in the server's words. */
export class SharingError extends Error {}

export class Sharing {
  #csrf;

  /** `csrf` is the token that the server wants with every change. */
  constructor(csrf) {
    this.#csrf = csrf;
  }

  /** {share: Share or null, found: [{kind, count, example}, …]}. Raises SharingError, as all do. */
  async read(conversation) {
    return (await this.#ask(conversation, { method: "GET" })).json();
  }

  /** Makes the share, or brings it up to date; the Share. */
  async save(conversation, { expiresInDays, reasoning, masked }) {
    const body = JSON.stringify({ expires_in_days: expiresInDays, reasoning, masked });
    return (await this.#ask(conversation, { method: "PUT", body })).json();
  }

  async revoke(conversation) {
    await this.#ask(conversation, { method: "DELETE" });
  }

  async #ask(conversation, options) {
    const headers = { Accept: "application/json", "Content-Type": "application/json", "X-CSRFToken": this.#csrf };
    let response;
    try {
      response = await fetch(shareResource(conversation), { ...options, headers });
    } catch {
      throw new SharingError(AWAY);
    }
    if (!response.ok) throw new SharingError(await sentenceOf(response));
    return response;
  }
}

async function sentenceOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return response.status === 403 ? "This page is too old. Load it again, and share again." : AWAY;
  }
}
