// The list's frame: a column beside the text on a wide page, which can be closed; a drawer over it on a narrow one.

import { part } from "../helpers/elements.js";
import { swipeDirection } from "../helpers/swipe.js";
import { writeStored } from "../helpers/storage.js";

const STORED_AS = "sidebar";
const EDGE_PX = 32;
const NARROW = matchMedia("(max-width: 860px)");

export class Sidebar {
  #element;
  #button;
  #backdrop;
  #main;
  #isDrawerOpen = false;
  #touch = null;

  constructor(element, { button, backdrop, main }) {
    this.#element = element;
    this.#button = button;
    this.#backdrop = backdrop;
    this.#main = main;
  }

  connect() {
    this.#button.addEventListener("click", this.#toggle);
    this.#backdrop.addEventListener("click", this.close);
    part(this.#element, "close").addEventListener("click", this.close);
    this.#element.addEventListener("keydown", this.#keyPressed);
    document.addEventListener("touchstart", this.#touched, { passive: true });
    document.addEventListener("touchend", this.#released, { passive: true });
    NARROW.addEventListener("change", this.#widthChanged);
    this.#update();
  }

  disconnect() {
    this.#button.removeEventListener("click", this.#toggle);
    this.#backdrop.removeEventListener("click", this.close);
    part(this.#element, "close").removeEventListener("click", this.close);
    this.#element.removeEventListener("keydown", this.#keyPressed);
    document.removeEventListener("touchstart", this.#touched);
    document.removeEventListener("touchend", this.#released);
    NARROW.removeEventListener("change", this.#widthChanged);
  }

  /** Closes the drawer; a column stays. */
  close = () => {
    if (!this.#isDrawerOpen) return;
    const hadFocus = this.#element.contains(document.activeElement);
    this.#isDrawerOpen = false;
    this.#update();
    if (hadFocus) this.#button.focus({ preventScroll: true });
  };

  #open() {
    this.#isDrawerOpen = true;
    this.#update();
    part(this.#element, "close").focus({ preventScroll: true });
  }

  #toggle = () => {
    if (NARROW.matches) {
      this.#open();
      return;
    }
    writeStored("localStorage", STORED_AS, this.#isColumnClosed ? null : "closed");
    if (this.#isColumnClosed) delete document.documentElement.dataset.sidebar;
    else document.documentElement.dataset.sidebar = "closed";
    this.#update();
  };

  get #isColumnClosed() {
    return document.documentElement.dataset.sidebar === "closed";
  }

  #widthChanged = () => {
    this.#isDrawerOpen = false;
    this.#update();
  };

  #update() {
    const isShown = NARROW.matches ? this.#isDrawerOpen : !this.#isColumnClosed;
    this.#element.inert = !isShown;
    this.#main.inert = this.#isDrawerOpen;
    this.#element.toggleAttribute("data-open", this.#isDrawerOpen);
    this.#backdrop.hidden = !this.#isDrawerOpen;
    this.#button.setAttribute("aria-expanded", String(isShown));
  }

  #keyPressed = (event) => {
    if (event.key !== "Escape" || !this.#isDrawerOpen) return;
    event.stopPropagation();
    this.close();
  };

  #touched = ({ touches }) => {
    const { clientX: x, clientY: y } = touches[0];
    this.#touch = NARROW.matches && touches.length === 1 && (this.#isDrawerOpen || x < EDGE_PX) ? { x, y } : null;
  };

  #released = ({ changedTouches }) => {
    if (!this.#touch) return;
    const { clientX: x, clientY: y } = changedTouches[0];
    const direction = swipeDirection(x - this.#touch.x, y - this.#touch.y);
    this.#touch = null;
    if (direction > 0 && !this.#isDrawerOpen) this.#open();
    else if (direction < 0) this.close();
  };
}
