// What a new chat shows before its first message.

import { cloneTemplate, part, setText } from "../helpers/elements.js";

export class EmptyPage {
  element = cloneTemplate("empty-template");

  update({ chosen, anyReady }) {
    setText(part(this.element, "model"), modelSentence(chosen, anyReady));
  }
}

function modelSentence(chosen, anyReady) {
  if (!chosen) return "No model is set up on this server yet.";
  if (chosen.state === "loading") return `${chosen.name} is loading, ${Math.round(100 * chosen.loading)} % so far.`;
  if (!anyReady) return "No model is running at the moment. It may be starting; this page notices when one is ready.";
  if (chosen.state !== "ready") return `${chosen.name} is not running at the moment. Choose another model below.`;
  return `${chosen.name} — ${chosen.description}`;
}
