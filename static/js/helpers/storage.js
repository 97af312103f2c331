// localStorage and sessionStorage, which throw where the reader's settings refuse them or where they are full.

export function readStored(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

/** Stores a string, or forgets the key where `value` is null. Nothing is stored where storage is refused. */
export function writeStored(storage, key, value) {
  try {
    if (value === null) window[storage].removeItem(key);
    else window[storage].setItem(key, value);
  } catch {
    // The page works without: only what should outlive a reload is lost.
  }
}
