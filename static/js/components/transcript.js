// The messages of the conversation on the screen, or what stands in their place: the empty page, a wait, a failure.

import { copyText } from "../helpers/clipboard.js";
import { cloneTemplate, emit, oncePerFrame, part } from "../helpers/elements.js";
import { AssistantMessage } from "./assistant_message.js";
import { BranchSwitch } from "./branch_switch.js";
import { EmptyPage } from "./empty_page.js";
import { UserMessage } from "./user_message.js";

const COPIED_MS = 1_500;
const FAILURES = {
  missing: "There is no such conversation. It may have been deleted, or it belongs to another browser.",
  unreachable: "The conversation could not be fetched. It is stored; the network or the server did not answer.",
};

export class Transcript {
  #element;
  #chat;
  #catalog;
  #renderer;
  #modelMenu;
  #editing;
  #messages = new Map();
  #placeholder = null;
  #update = oncePerFrame(() => this.#render());

  /** `drafts` and `makeEditor` are for questions that are written again. */
  constructor(element, { chat, catalog, renderer, modelMenu, drafts, makeEditor }) {
    this.#element = element;
    this.#chat = chat;
    this.#catalog = catalog;
    this.#renderer = renderer;
    this.#modelMenu = modelMenu;
    this.#editing = { drafts, makeEditor };
  }

  connect() {
    this.#chat.addEventListener("change", this.#update);
    // What the reader did is on the screen at once; what the server sends, once a frame.
    this.#chat.addEventListener("opened", this.#render);
    this.#chat.addEventListener("asked", this.#render);
    this.#catalog.addEventListener("change", this.#update);
    this.#element.addEventListener("click", this.#clicked);
    this.#element.addEventListener("chat:leave-editor", this.#editorLeft);
    this.#render();
  }

  disconnect() {
    this.#chat.removeEventListener("change", this.#update);
    this.#chat.removeEventListener("opened", this.#render);
    this.#chat.removeEventListener("asked", this.#render);
    this.#catalog.removeEventListener("change", this.#update);
    this.#element.removeEventListener("click", this.#clicked);
    this.#element.removeEventListener("chat:leave-editor", this.#editorLeft);
  }

  /** Draws at once, and gives the focus to the `side` button of the message that was switched to. */
  focusBranch(id, side) {
    this.#render();
    const message = this.#element.querySelector(`[data-message-id="${CSS.escape(id)}"]`);
    if (message) BranchSwitch.focus(message, side);
  }

  /** Draws at once, and opens the editor of a question on the screen; whether it is there. */
  startEditing(key) {
    this.#render();
    this.#messages.get(key)?.startEditing();
    return this.#messages.has(key);
  }

  #render = () => {
    const { conversation, view } = this.#chat;
    const placeholder = view === "shown" && conversation.messages.length === 0 ? "empty" : view;
    this.#showPlaceholder(placeholder);
    this.#showMessages(placeholder === "shown" ? conversation.messages : []);
  };

  #showPlaceholder(name) {
    if (this.#placeholder?.name !== name) {
      // The first one replaces what the server has put there.
      if (this.#placeholder === null) this.#element.replaceChildren();
      this.#placeholder?.element?.remove();
      this.#placeholder = { name, ...this.#makePlaceholder(name) };
      if (this.#placeholder.element) this.#element.append(this.#placeholder.element);
    }
    this.#placeholder.component?.update(this.#catalog);
  }

  #makePlaceholder(name) {
    if (name === "shown") return {};
    if (name === "empty") {
      const component = new EmptyPage();
      return { component, element: component.element };
    }
    const element = cloneTemplate(name === "loading" ? "loading-template" : "failure-template");
    if (name in FAILURES) {
      part(element, "text").textContent = FAILURES[name];
      element.querySelector('[data-action="reopen"]').hidden = name === "missing";
    }
    return { element };
  }

  #showMessages(messages) {
    const keys = new Set(messages.map(({ key }) => key));
    for (const [key, component] of this.#messages) {
      if (keys.has(key)) continue;
      component.disconnect();
      this.#messages.delete(key);
    }
    let previous = null;
    for (const message of messages) {
      const component = this.#messages.get(message.key) ?? this.#add(message);
      const next = previous ? previous.nextElementSibling : this.#element.firstElementChild;
      if (component.element !== next) this.#element.insertBefore(component.element, next);
      const { generation } = message;
      const free = generation?.state === "queued" ? this.#catalog.freeBeside(generation.model) : undefined;
      component.update(message, { isBusy: this.#chat.busy, free });
      previous = component.element;
    }
  }

  #add({ key, role }) {
    const component =
      role === "user" ? new UserMessage(this.#editing) : new AssistantMessage({ key, renderer: this.#renderer });
    component.element.dataset.key = key;
    component.connect();
    this.#messages.set(key, component);
    return component;
  }

  #clicked = ({ target }) => {
    const button = target.closest("[data-action]");
    const action = button?.dataset.action;
    if (action === "copy") this.#copy(button);
    else if (action === "retry") emit(button, "chat:retry", { message: keyOf(button) });
    else if (action === "move") emit(this.#element, "chat:move", { model: button.dataset.model });
    else if (action === "continue") emit(button, "chat:continue", { message: keyOf(button) });
    else if (action === "fork") emit(button, "chat:fork", { message: idOf(button) });
    else if (action === "choose") this.#modelMenu.open(button, keyOf(button));
    else if (action === "edit") this.#edit(button);
    else if (action === "show") this.#showSibling(button);
    else if (action === "reopen") emit(this.#element, "chat:open", { conversation: this.#chat.conversation.id });
    else if (action === "prompt") emit(this.#element, "chat:send", { content: button.textContent });
  };

  // At an answer it means the question before it.
  #edit(button) {
    const message = button.closest(".message");
    const question = message.dataset.role === "user" ? message : message.previousElementSibling;
    this.startEditing(question.dataset.key);
  }

  #editorLeft = ({ detail }) => this.#messages.get(detail.message)?.stopEditing();

  #showSibling(button) {
    const { message, part: side } = button.dataset;
    if (message) emit(this.#element, "chat:show", { message, side });
  }

  async #copy(button) {
    if (!(await copyText(button.closest(".message").rawText))) return;
    button.dataset.done = "";
    button.setAttribute("aria-label", "Copied");
    setTimeout(() => {
      delete button.dataset.done;
      button.setAttribute("aria-label", "Copy");
    }, COPIED_MS);
  }
}

function keyOf(button) {
  return button.closest(".message").dataset.key;
}

function idOf(button) {
  return button.closest(".message").dataset.messageId;
}
