// Finding models by what is typed.

/** Whether every word of `search` occurs somewhere in what the picker shows of a model. */
export function matchesSearch({ name, maker, description, licence, capabilities }, search) {
  const text = [name, maker, description, licence, ...capabilities].join(" ").toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}
