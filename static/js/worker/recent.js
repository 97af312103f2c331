// A small cache of the results of dear work: a streamed text is rendered many times, and most of it has not changed.

export class Recent {
  #capacity;
  #results = new Map();

  constructor(capacity) {
    this.#capacity = capacity;
  }

  /** The result for `key`, made by `make` where it is not known; null is never kept. */
  get(key, make) {
    const result = this.#results.get(key) ?? make();
    if (result === null) return null;
    // Deleting first makes this the youngest key of the Map; the oldest goes.
    this.#results.delete(key);
    this.#results.set(key, result);
    if (this.#results.size > this.#capacity) this.#results.delete(this.#results.keys().next().value);
    return result;
  }
}
