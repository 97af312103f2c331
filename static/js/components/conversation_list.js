// The sidebar's list of conversations, in groups of time.

import { pageOf } from "../helpers/addresses.js";
import { emit, oncePerFrame } from "../helpers/elements.js";
import { groupByTime, untilMidnightMs } from "../helpers/time_groups.js";

const NEAR_THE_END_PX = 200;

export class ConversationList {
  #element;
  #summaries;
  #chat;
  #links = new Map();
  #midnight = null;
  #update = oncePerFrame(() => this.#render());

  constructor(element, { summaries, chat }) {
    this.#element = element;
    this.#summaries = summaries;
    this.#chat = chat;
  }

  connect() {
    this.#summaries.addEventListener("change", this.#update);
    this.#chat.addEventListener("opened", this.#update);
    this.#chat.addEventListener("named", this.#update);
    this.#element.addEventListener("click", this.#clicked);
    this.#element.addEventListener("scroll", this.#scrolled, { passive: true });
    this.#render();
  }

  disconnect() {
    this.#summaries.removeEventListener("change", this.#update);
    this.#chat.removeEventListener("opened", this.#update);
    this.#chat.removeEventListener("named", this.#update);
    this.#element.removeEventListener("click", this.#clicked);
    this.#element.removeEventListener("scroll", this.#scrolled);
    clearTimeout(this.#midnight);
  }

  #clicked = (event) => {
    if (event.target.closest('[data-action="more"]')) {
      this.#summaries.loadMore();
      return;
    }
    const link = event.target.closest("[data-conversation]");
    // A click that asks for a new tab or window is the browser's.
    if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    emit(this.#element, "chat:open", { conversation: link.dataset.conversation });
  };

  #scrolled = () => {
    const { scrollHeight, clientHeight, scrollTop } = this.#element;
    const isNearTheEnd = scrollHeight - clientHeight - scrollTop < NEAR_THE_END_PX;
    if (isNearTheEnd && !this.#summaries.failed) this.#summaries.loadMore();
  };

  #render() {
    const groups = groupByTime(this.#summaries.list);
    const sections = Array.from(groups, ([heading, summaries]) => this.#section(heading, summaries));
    const focused = document.activeElement;
    this.#element.replaceChildren(...(sections.length ? sections : [emptySentence()]), ...this.#more());
    // Moving a link takes the focus away from it.
    if (focused !== document.activeElement && this.#element.contains(focused)) focused.focus({ preventScroll: true });
    this.#forgetLinks();
    clearTimeout(this.#midnight);
    this.#midnight = setTimeout(this.#update, untilMidnightMs());
  }

  #section(heading, summaries) {
    const section = document.createElement("section");
    const title = document.createElement("h2");
    const list = document.createElement("ul");
    title.textContent = heading;
    section.append(title, list);
    list.append(...summaries.map((summary) => this.#item(summary)));
    return section;
  }

  #item({ id, title, answering }) {
    const item = document.createElement("li");
    const link = this.#links.get(id) ?? makeLink(id);
    this.#links.set(id, link);
    link.firstElementChild.textContent = title || "New chat";
    link.lastElementChild.hidden = !answering;
    if (id === this.#chat.conversation.id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    item.append(link);
    return item;
  }

  #more() {
    if (this.#summaries.next === null) return [];
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sidebar__more";
    button.dataset.action = "more";
    button.disabled = this.#summaries.loading;
    button.textContent = this.#moreLabel();
    return [button];
  }

  #moreLabel() {
    if (this.#summaries.loading) return "Loading…";
    return this.#summaries.failed ? "Could not load more. Try again" : "Show more";
  }

  #forgetLinks() {
    const ids = new Set(this.#summaries.list.map(({ id }) => id));
    for (const id of this.#links.keys()) if (!ids.has(id)) this.#links.delete(id);
  }
}

function makeLink(id) {
  const link = document.createElement("a");
  const title = document.createElement("span");
  const dot = document.createElement("span");
  link.className = "conversation-link";
  link.href = pageOf(id);
  link.dataset.conversation = id;
  link.dataset.testid = "conversation-link";
  title.dir = "auto";
  dot.className = "answering-dot";
  dot.role = "img";
  dot.ariaLabel = "Answering";
  dot.title = "Answering";
  link.append(title, dot);
  return link;
}

function emptySentence() {
  const sentence = document.createElement("p");
  sentence.className = "sidebar__empty";
  sentence.textContent = "Your conversations will be listed here.";
  return sentence;
}
