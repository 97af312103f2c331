// The chat page: makes the models and the components, and carries the components' wishes to the models.

import { AlertLine } from "./components/alert_line.js";
import { Announcer } from "./components/announcer.js";
import { Composer } from "./components/composer.js";
import { ConnectionLine } from "./components/connection_line.js";
import { ConversationList } from "./components/conversation_list.js";
import { MessageEditor } from "./components/message_editor.js";
import { ModelMenu } from "./components/model_menu.js";
import { ModelPicker } from "./components/model_picker.js";
import { PageTitle } from "./components/page_title.js";
import { ScrollKeeper } from "./components/scroll_keeper.js";
import { ShareDialog } from "./components/share_dialog.js";
import { Sidebar } from "./components/sidebar.js";
import { ThemeSwitch } from "./components/theme_switch.js";
import { Transcript } from "./components/transcript.js";
import { MODELS_RESOURCE } from "./helpers/addresses.js";
import { part } from "./helpers/elements.js";
import { IS_MAC, isComposing, isNewChatShortcut } from "./helpers/keyboard.js";
import { fetchUnlessAway } from "./helpers/resources.js";
import { Branches } from "./models/branches.js";
import { Catalog } from "./models/catalog.js";
import { Chat } from "./models/chat.js";
import { Connection } from "./models/connection.js";
import { Drafts } from "./models/drafts.js";
import { Generations } from "./models/generations.js";
import { MarkdownRenderer } from "./models/markdown.js";
import { Navigation } from "./models/navigation.js";
import { Outbox } from "./models/outbox.js";
import { Sharing } from "./models/sharing.js";
import { Summaries } from "./models/summaries.js";

// After this long in the background a page may have missed what happened in other tabs.
const STALE_AFTER_MS = 15_000;
// How often a page whose model is not running asks whether it is.
const MODEL_CHECK_MS = 10_000;
// What Escape closes, wherever the focus is; where nothing of it is open, the key stops the answer.
const TAKES_ESCAPE = ":modal, :popover-open, .picker:not([hidden]), .editor";

const app = document.getElementById("app");
const page = JSON.parse(document.getElementById("page-data").textContent);

const connection = new Connection({ address: socketAddress(), serverAnswers });
const generations = new Generations(connection);
const outbox = new Outbox();
const drafts = new Drafts();
const summaries = new Summaries(page);
const catalog = new Catalog(page.models);
const renderer = new MarkdownRenderer(app.dataset.markdownWorker);
const chat = new Chat({ connection, generations, outbox, summaries });
const branches = new Branches(chat, { token: app.dataset.csrf });
const navigation = new Navigation(chat);

chat.show(page.conversation);
catalog.select(chat.conversation.model);

const byId = (id) => document.getElementById(id);
const main = byId("main");
const composer = new Composer(byId("composer"), { chat, catalog, drafts, limits: page.limits });
const alertLine = new AlertLine(byId("alert"));
const sidebar = new Sidebar(byId("sidebar"), { button: byId("sidebar-button"), backdrop: part(app, "backdrop"), main });
const modelMenu = new ModelMenu(byId("model-menu"), { catalog });
const transcript = new Transcript(byId("transcript"), { chat, catalog, renderer, modelMenu, drafts, makeEditor });
const scrollKeeper = new ScrollKeeper(byId("scroll"), { content: byId("transcript"), jump: byId("jump") });
const components = [
  modelMenu,
  transcript,
  scrollKeeper,
  composer,
  alertLine,
  sidebar,
  new ModelPicker(byId("picker"), { button: byId("picker-button"), catalog }),
  new ConversationList(byId("conversations"), { summaries, chat }),
  new ConnectionLine(byId("connection"), { connection }),
  new PageTitle(byId("title"), { chat, summaries }),
  new ThemeSwitch(byId("theme-switch")),
  new ShareDialog(byId("share-dialog"), { button: byId("share-button"), chat, sharing: new Sharing(byId("share-dialog").dataset.csrf) }),
  new Announcer(byId("announcer"), { chat }),
];
for (const component of components) component.connect();

listenToComponents();
listenToModels();
listenToReader();
navigation.start();
resumeStored();
connection.start(() => generations.expectsFrames);
if (!matchMedia("(any-pointer: coarse)").matches) composer.focus();

function listenToComponents() {
  app.addEventListener("chat:send", ({ detail }) => ask(detail, chat.send));
  app.addEventListener("chat:stop", () => chat.stop());
  app.addEventListener("chat:move", ({ detail }) => {
    const model = catalog.find(detail.model);
    if (model) chat.move({ model: model.slug, modelName: model.name });
  });
  app.addEventListener("chat:retry", ({ detail }) => ask(detail, chat.regenerate));
  app.addEventListener("chat:continue", ({ detail }) => goOn(detail));
  app.addEventListener("chat:reword", ({ detail }) => ask(detail, chat.edit));
  app.addEventListener("chat:show", ({ detail }) => showBranch(detail));
  app.addEventListener("chat:fork", ({ detail }) => fork(detail));
  app.addEventListener("chat:open", ({ detail }) => go(detail.conversation));
  app.addEventListener("chat:model", () => composer.focus());
  app.addEventListener("chat:reload", () => location.reload());
  app.addEventListener("click", (event) => {
    if (!event.target.closest('[data-action="new-chat"]') || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(null);
  });
}

function listenToModels() {
  chat.addEventListener("opened", () => {
    catalog.select(chat.conversation.model);
    alertLine.hide();
    scrollKeeper.pin();
  });
  chat.addEventListener("refused", ({ detail }) => {
    if (detail.conversation === chat.conversation.id) {
      if (detail.content !== null) giveBack(detail);
      alertLine.show(detail.message);
    } else if (detail.content !== null) {
      drafts.giveBack(detail.conversation, detail.content);
    }
  });
  for (const model of [chat, branches]) {
    model.addEventListener("trouble", ({ detail }) => alertLine.show(detail.message));
  }
  // Also after the first one: something may have happened between the page and its socket.
  connection.addEventListener("open", refresh);
}

function listenToReader() {
  document.addEventListener("keydown", (event) => {
    if (isNewChatShortcut(event)) {
      event.preventDefault();
      go(null);
    } else if (event.key === "Escape" && !isComposing(event, -Infinity) && !document.querySelector(TAKES_ESCAPE)) {
      chat.stop();
    }
  });
  let hiddenAt = 0;
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") hiddenAt = Date.now();
    else if (Date.now() - hiddenAt > STALE_AFTER_MS) refresh();
  });
  // Also while an answer waits: another model may have become free.
  setInterval(() => {
    const isAsked = catalog.chosen?.state !== "ready" || chat.conversation.running?.state === "queued";
    if (document.visibilityState === "visible" && isAsked) catalog.refresh();
  }, MODEL_CHECK_MS);
  part(app, "shortcut").textContent = IS_MAC ? "⇧⌘O" : "Ctrl ⇧ O";
}

// Here, and not where it is shown: the chain of imports would become too long (docs/browser.md).
function makeEditor(message) {
  return new MessageEditor({ chat, drafts, limits: page.limits, message });
}

function refresh() {
  chat.refresh();
  summaries.refresh();
}

function ask({ slug, ...asked }, request) {
  // As the server has it: a conversation goes on with the model that was last asked.
  if (slug) catalog.select(slug);
  const { chosen } = catalog;
  if (chat.busy || !chosen) return;
  alertLine.hide();
  request.call(chat, { ...asked, model: chosen.slug, modelName: chosen.name });
  scrollKeeper.pin();
}

function goOn(asked) {
  if (chat.busy) return;
  alertLine.hide();
  chat.goOn(asked);
}

/** The text of a refused message, into its own box again. */
function giveBack({ question, content }) {
  const message = chat.conversation.find(question);
  if (!message) {
    composer.giveBack(content);
    return;
  }
  drafts.writeEdit(message.id, content);
  transcript.startEditing(message.key);
}

async function showBranch({ message, side }) {
  alertLine.hide();
  scrollKeeper.unpin();
  if (await branches.show(message)) transcript.focusBranch(message, side);
}

async function fork({ message }) {
  alertLine.hide();
  const copy = await branches.fork(message);
  if (copy === null) return;
  summaries.touch(copy);
  go(copy.id);
}

function go(conversation) {
  sidebar.close();
  navigation.go(conversation);
  if (!matchMedia("(any-pointer: coarse)").matches) composer.focus();
}

/** What an earlier page of this tab sent without hearing back; one that was never built is a draft again. */
function resumeStored() {
  for (const entry of Outbox.stored()) {
    if (entry.frame || entry.conversation === chat.conversation.id) chat.resume(entry);
    else drafts.giveBack(entry.conversation, entry.content);
  }
}

async function serverAnswers() {
  return (await fetchUnlessAway(MODELS_RESOURCE)) !== null;
}

function socketAddress() {
  return new URL(app.dataset.socket, location.href.replace(/^http/, "ws")).href;
}
