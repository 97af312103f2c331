// The headings of the conversation list, in the reader's own time zone.

/** Summaries by their heading, in the order they come. */
export function groupByTime(summaries, now = new Date()) {
  const groups = new Map();
  for (const summary of summaries) {
    const heading = timeGroup(summary.updated_at, now);
    groups.set(heading, [...(groups.get(heading) ?? []), summary]);
  }
  return groups;
}

/** How long until the headings change. */
export function untilMidnightMs(now = new Date()) {
  return new Date(now.getFullYear(), now.getMonth(), now.getDate() + 1) - now;
}

/** "Today", "Yesterday", "Previous 7 days" or "Older" for an ISO time, seen from `now`. */
function timeGroup(isoTime, now) {
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate());
  const time = new Date(isoTime);
  if (time >= midnight) return "Today";
  // Days before today begin at local midnights, which daylight saving puts 23 or 25 hours apart.
  if (time >= daysBefore(midnight, 1)) return "Yesterday";
  if (time >= daysBefore(midnight, 7)) return "Previous 7 days";
  return "Older";
}

function daysBefore(midnight, days) {
  return new Date(midnight.getFullYear(), midnight.getMonth(), midnight.getDate() - days);
}
