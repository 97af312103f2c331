// The page's side of the Markdown worker: never more than one unanswered request for each message, where the latest
// text wins; and a worker that fails or hangs is replaced, its text shown as it is.

const MOST_MS = 2_000;
// Fetching the worker and its modules, over a slow network.
const MOST_START_MS = 20_000;
// A worker that cannot even start would otherwise be started for ever.
const MOST_FAILURES = 3;

export class MarkdownRenderer {
  #address;
  #worker = null;
  #ready = false;
  #failures = 0;
  #timer = null;
  /** By message: {text, answered, next}; `next` is a later {text, answered} that waits for this one. */
  #jobs = new Map();
  #incomplete = new Map();
  #hopeless = new Set();

  constructor(address) {
    this.#address = address;
  }

  /** Calls `answered` with the blocks of HTML of `text`, or null where it is to be shown as it is. */
  render(id, text, answered) {
    if (this.#hopeless.has(id) || this.#failures >= MOST_FAILURES) {
      answered(null);
      return;
    }
    const job = this.#jobs.get(id);
    if (job) job.next = { text, answered };
    else this.#post(id, { text, answered });
  }

  /** The message is not on the screen any more. */
  forget(id) {
    this.#incomplete.delete(id);
    const job = this.#jobs.get(id);
    if (!job) return;
    job.answered = () => {};
    job.next = null;
  }

  #post(id, { text, answered }) {
    this.#jobs.set(id, { text, answered, next: null });
    this.#worker ??= this.#start();
    this.#worker.postMessage({ id, text });
    if (this.#jobs.size === 1) this.#watch();
  }

  #start() {
    const worker = new Worker(this.#address, { type: "module" });
    worker.addEventListener("message", ({ data }) => {
      if (data.type === "rendered") this.#rendered(data);
      else if (data.type === "loaded") this.#renderIncomplete();
      else this.#becomeReady();
    });
    worker.addEventListener("error", () => this.#fail());
    return worker;
  }

  #becomeReady() {
    this.#ready = true;
    this.#watch();
  }

  #rendered({ id, blocks, complete }) {
    this.#failures = 0;
    const { text, answered, next } = this.#jobs.get(id);
    this.#jobs.delete(id);
    if (complete) this.#incomplete.delete(id);
    else this.#incomplete.set(id, { text, answered });
    answered(blocks);
    if (next) this.#post(id, next);
    this.#watch();
  }

  #renderIncomplete() {
    const incomplete = Array.from(this.#incomplete);
    this.#incomplete.clear();
    for (const [id, { text, answered }] of incomplete) {
      // A request under way has a later text, and is rendered with the library: the worker says "loaded" in between.
      if (!this.#jobs.has(id)) this.render(id, text, answered);
    }
  }

  // Measured from the last answer, since the worker takes one request after the other.
  #watch() {
    clearTimeout(this.#timer);
    if (this.#jobs.size > 0) this.#timer = setTimeout(() => this.#fail(), this.#ready ? MOST_MS : MOST_START_MS);
  }

  /** The oldest request is the one that a ready worker was at. */
  #fail() {
    this.#worker?.terminate();
    this.#worker = null;
    this.#failures += 1;
    const jobs = Array.from(this.#jobs);
    this.#jobs.clear();
    if (this.#ready && jobs.length > 0) this.#giveUp(...jobs.shift());
    this.#ready = false;
    for (const [id, job] of jobs) this.render(id, ...latest(job));
    this.#watch();
  }

  #giveUp(id, job) {
    this.#hopeless.add(id);
    latest(job)[1](null);
  }
}

function latest({ text, answered, next }) {
  return next ? [next.text, next.answered] : [text, answered];
}
