// The models, their load, and which one the next message goes to. It sends "change".

import { MODELS_RESOURCE } from "../helpers/addresses.js";
import { fetchUnlessAway } from "../helpers/resources.js";
import { readStored, writeStored } from "../helpers/storage.js";

const STORED_AS = "model";

export class Catalog extends EventTarget {
  models;
  #chosen = null;

  constructor(models) {
    super();
    this.models = models;
    this.select(null);
  }

  /** The chosen Model of docs/protocol.md; undefined where there are no models. */
  get chosen() {
    return this.find(this.#chosen);
  }

  get anyReady() {
    return this.models.some(({ state }) => state === "ready");
  }

  /** A model that would answer at once; undefined where none would. */
  freeBeside(slug) {
    return this.models.find(
      (model) => model.slug !== slug && model.state === "ready" && model.waiting === 0 && model.running < model.slots,
    );
  }

  find(slug) {
    return this.models.find((model) => model.slug === slug);
  }

  /** The reader's choice, remembered for new chats. */
  choose(slug) {
    writeStored("localStorage", STORED_AS, slug);
    this.select(slug);
  }

  /** Takes a conversation's model; where it is null or unknown, the remembered one, or the default. */
  select(slug) {
    const remembered = this.find(readStored("localStorage", STORED_AS));
    const usual = this.models.find((model) => model.default) ?? this.models[0];
    const wanted = this.find(slug) ?? (remembered?.state === "ready" ? remembered : usual);
    const fallback = slug ? undefined : this.models.find(({ state }) => state === "ready");
    const chosen = wanted?.state === "ready" ? wanted : (fallback ?? wanted);
    this.#chosen = chosen?.slug ?? null;
    this.#changed();
  }

  /** Asks for the load again; what is shown stays where no answer comes. */
  async refresh() {
    const answer = await fetchUnlessAway(MODELS_RESOURCE);
    if (answer === null) return;
    this.models = answer.models;
    if (!this.chosen) this.select(null);
    else this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
