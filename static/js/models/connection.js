// The WebSocket, opened again whenever it is lost.
// It sends "open" and "lost" for each socket, "frame" with each frame as detail, and "state" when `state` changes:
// "connecting", "connected", "offline" (the browser says there is no network) or "expired" (the session is gone, or the
// server answers but refuses the handshake: only loading the page again helps).

import { backoffMs } from "../helpers/backoff.js";

const SESSION_GONE = 4401;
// Pings are invisible to scripts, so that silence is a sign of death only while frames are due.
const SILENCE_MS = 45_000;
const SILENCE_CHECK_MS = 5_000;
// A hung handshake otherwise lasts as long as the system's connect timeout.
const HANDSHAKE_MS = 10_000;
const FAILURES_BEFORE_PROBE = 4;

export class Connection extends EventTarget {
  state = "connecting";
  #address;
  #expectsFrames = () => false;
  #serverAnswers;
  #socket = null;
  #attempt = 0;
  #isRefused = false;
  #isOver = false;
  #retryTimer = null;
  #handshakeTimer = null;
  #heardAt = 0;

  /** `serverAnswers` asks it by HTTP: a script cannot tell a refused handshake from a server that is away. */
  constructor({ address, serverAnswers }) {
    super();
    this.#address = address;
    this.#serverAnswers = serverAnswers;
  }

  /** `expectsFrames` tells whether frames are due now. */
  start(expectsFrames) {
    this.#expectsFrames = expectsFrames;
    window.addEventListener("online", () => this.#retryNow());
    window.addEventListener("offline", () => this.#lose());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#retryNow();
    });
    // A page that comes back from the back-forward cache has had its socket closed.
    window.addEventListener("pageshow", (event) => event.persisted && this.#retryNow());
    setInterval(() => this.#checkSilence(), SILENCE_CHECK_MS);
    this.#open();
  }

  /** Whether the frame was handed to an open socket; it may still be lost with it. */
  send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  #open() {
    clearTimeout(this.#retryTimer);
    this.#setState(this.#waitingState);
    const socket = new WebSocket(this.#address);
    this.#socket = socket;
    this.#handshakeTimer = setTimeout(() => this.#lose(), HANDSHAKE_MS);
    socket.addEventListener("open", () => this.#opened(socket));
    socket.addEventListener("message", ({ data }) => this.#heard(socket, data));
    socket.addEventListener("close", ({ code }) => this.#closed(socket, code));
  }

  #opened(socket) {
    if (socket !== this.#socket) return;
    clearTimeout(this.#handshakeTimer);
    this.#attempt = 0;
    this.#isRefused = false;
    this.#heardAt = performance.now();
    this.#setState("connected");
    this.dispatchEvent(new Event("open"));
  }

  #heard(socket, data) {
    if (socket !== this.#socket) return;
    this.#heardAt = performance.now();
    this.dispatchEvent(new CustomEvent("frame", { detail: JSON.parse(data) }));
  }

  #closed(socket, code) {
    if (socket !== this.#socket) return;
    if (code === SESSION_GONE) this.#expire();
    else this.#lose();
  }

  #lose() {
    this.#drop();
    this.#setState(this.#waitingState);
    this.dispatchEvent(new Event("lost"));
    this.#scheduleRetry();
    if (this.#attempt >= FAILURES_BEFORE_PROBE) this.#probe();
  }

  get #waitingState() {
    if (this.#isRefused) return "expired";
    return navigator.onLine ? "connecting" : "offline";
  }

  #drop() {
    clearTimeout(this.#handshakeTimer);
    const socket = this.#socket;
    // Forgotten first: closing a dead socket takes long, and its late events must not count.
    this.#socket = null;
    socket?.close();
  }

  #scheduleRetry() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#open(), backoffMs(this.#attempt));
    this.#attempt += 1;
  }

  #retryNow() {
    if (this.#isOver || this.#socket) return;
    this.#attempt = 0;
    this.#open();
  }

  async #probe() {
    this.#isRefused = await this.#serverAnswers();
    if (this.state !== "connected") this.#setState(this.#waitingState);
  }

  #expire() {
    this.#isOver = true;
    this.#drop();
    clearTimeout(this.#retryTimer);
    this.#setState("expired");
    this.dispatchEvent(new Event("lost"));
  }

  #checkSilence() {
    const silentMs = performance.now() - this.#heardAt;
    if (this.state !== "connected" || silentMs < SILENCE_MS || !this.#expectsFrames()) return;
    this.#lose();
    this.#retryNow();
  }

  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
