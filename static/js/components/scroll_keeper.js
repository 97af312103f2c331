// Keeps the end of the messages in view for as long as the reader is there. A few pixels upward let it go; reaching
// the end again, or "Jump to latest", takes it up.

const AT_END_PX = 8;
const WORTH_A_JUMP_PX = 80;

export class ScrollKeeper {
  #scroller;
  #content;
  #jump;
  #isPinned = true;
  #lastTop = 0;
  #observer = new ResizeObserver(() => this.#resized());

  constructor(scroller, { content, jump }) {
    this.#scroller = scroller;
    this.#content = content;
    this.#jump = jump;
  }

  connect() {
    this.#scroller.addEventListener("scroll", this.#scrolled, { passive: true });
    this.#scroller.addEventListener("wheel", this.#wheeled, { passive: true });
    this.#jump.addEventListener("click", this.#jumped);
    this.#observer.observe(this.#scroller);
    this.#observer.observe(this.#content);
  }

  disconnect() {
    this.#scroller.removeEventListener("scroll", this.#scrolled);
    this.#scroller.removeEventListener("wheel", this.#wheeled);
    this.#jump.removeEventListener("click", this.#jumped);
    this.#observer.disconnect();
  }

  /** Goes to the end, and stays there. */
  pin() {
    this.#isPinned = true;
    this.#toEnd();
  }

  /** Lets go: what is about to change is where the reader looks, not the end. */
  unpin() {
    this.#isPinned = false;
  }

  get #distance() {
    const { scrollHeight, clientHeight, scrollTop } = this.#scroller;
    return scrollHeight - clientHeight - scrollTop;
  }

  #resized() {
    if (this.#isPinned) this.#toEnd();
    else this.#updateJump();
  }

  // What stands in place of messages is read from its beginning.
  #toEnd() {
    const hasMessages = this.#content.querySelector(".message") !== null;
    this.#scroller.scrollTop = hasMessages ? this.#scroller.scrollHeight : 0;
    this.#lastTop = this.#scroller.scrollTop;
    this.#updateJump();
  }

  // Growth sends no scroll event and shrinking leaves the distance at 0, so that only the reader moves upward.
  #scrolled = () => {
    const { scrollTop } = this.#scroller;
    if (this.#distance <= AT_END_PX && scrollTop >= this.#lastTop) this.#isPinned = true;
    else if (scrollTop < this.#lastTop - 1 && this.#distance > 1) this.#isPinned = false;
    this.#lastTop = scrollTop;
    this.#updateJump();
  };

  // Text that comes between the wheel's turn and its scroll event would pull the reader back down.
  #wheeled = ({ deltaY }) => {
    if (deltaY < 0 && this.#scroller.scrollTop > 0) this.#isPinned = false;
  };

  #jumped = () => {
    this.pin();
    this.#scroller.focus({ preventScroll: true });
  };

  #updateJump() {
    this.#jump.hidden = this.#isPinned || this.#distance < WORTH_A_JUMP_PX;
  }
}
