// The list of shares: everything works without this but copying a link.

import { copyText } from "./helpers/clipboard.js";

const COPIED_MS = 1_500;

for (const button of document.querySelectorAll('[data-action="copy-address"]')) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(button.dataset.address)) ? "Copied" : "Copying was refused";
    setTimeout(() => (button.textContent = "Copy link"), COPIED_MS);
  });
}
