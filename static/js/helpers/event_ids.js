// Event ids are "epoch-seq", two decimal numbers, ordered first by epoch, then by seq.

/** Negative, zero or positive, as `first` is before, at or after `second`; null is before every id. */
export function compareEventIds(first, second) {
  if (first === second) return 0;
  if (first === null) return -1;
  if (second === null) return 1;
  const [firstEpoch, firstSeq] = first.split("-").map(Number);
  const [secondEpoch, secondSeq] = second.split("-").map(Number);
  return firstEpoch - secondEpoch || firstSeq - secondSeq;
}
