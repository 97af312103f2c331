// The conversations of the sidebar, newest first. It sends "change".

import { CONVERSATIONS_RESOURCE, conversationListResource } from "../helpers/addresses.js";
import { fetchUnlessAway } from "../helpers/resources.js";

export class Summaries extends EventTarget {
  /** The cursor of the next page; null where there is none. */
  next;
  loading = false;
  failed = false;
  #list;

  constructor({ conversations, next }) {
    super();
    this.#list = conversations;
    this.next = next;
  }

  get list() {
    return this.#list;
  }

  titleOf(id) {
    return this.#list.find((summary) => summary.id === id)?.title;
  }

  /** Takes the Summary of a conversation that has begun or has changed. */
  touch(summary) {
    const others = this.#list.filter(({ id }) => id !== summary.id);
    this.#list = newestFirst([summary, ...others]);
    this.#changed();
  }

  /** Loads the next page; `failed` tells how that went. */
  async loadMore() {
    if (this.loading || this.next === null) return;
    this.loading = true;
    this.#changed();
    const page = await fetchUnlessAway(conversationListResource(this.next));
    this.failed = page === null;
    if (page) {
      this.#list = [...this.#list, ...page.conversations.filter(({ id }) => this.titleOf(id) === undefined)];
      this.next = page.next;
    }
    this.loading = false;
    this.#changed();
  }

  /** Reads the first page again, after a time in which changes may have been missed. */
  async refresh() {
    const page = await fetchUnlessAway(CONVERSATIONS_RESOURCE);
    if (page === null) return;
    const fresh = new Set(page.conversations.map(({ id }) => id));
    const older = this.#list.filter(({ id }) => !fresh.has(id));
    // Without a further page everything is in this one; what is not has been deleted elsewhere.
    this.#list = page.next === null ? page.conversations : [...page.conversations, ...older];
    this.next ??= page.next;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

// ISO 8601 in UTC sorts as text.
function newestFirst(summaries) {
  return summaries.toSorted((first, second) => (first.updated_at < second.updated_at ? 1 : -1));
}
