// What the share dialog says.

import { count } from "./format.js";

const NOUNS = { key: "key", email: "e-mail address", phone: "phone number", card: "card number" };
const CHOICES_DAYS = [1, 7, 30];
const DAY_MS = 86_400_000;

/** {kind: "email", count: 2} -> "2 e-mail addresses". */
export function findingWords({ kind, count: number }) {
  return number !== 1 && kind === "email" ? `${number.toLocaleString("en")} e-mail addresses` : count(number, NOUNS[kind]);
}

/** "Shows the conversation as of 24 Nov, 20:15. Ends 1 Dec, 20:15." */
export function shareWhen({ updated_at, expires_at }) {
  const ends = expires_at ? `Ends ${moment(expires_at)}.` : "Never ends.";
  return `Shows the conversation as of ${moment(updated_at)}. ${ends}`;
}

/** The choice in days that a share was made with, as the value of its option; "" is never. */
export function expiryChoice({ updated_at, expires_at }) {
  if (!expires_at) return "";
  const days = (new Date(expires_at) - new Date(updated_at)) / DAY_MS;
  return String(CHOICES_DAYS.find((choice) => days <= choice + 0.01) ?? 30);
}

function moment(time) {
  return new Date(time).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}
