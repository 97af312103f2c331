"""Names for prefixes of token ids, by hash: a block's key stands for all ids up to its end.

Keys are salted with the owner. What one person has asked can then never be measured by another, whose own prompt would
be answered sooner if a stranger's had warmed the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from struct import pack

BLOCK_TOKENS = 32
_KEY_BYTES = 16


def chain(ids: Sequence[int], *, owner: str, after: Sequence[bytes] = ()) -> list[bytes]:
    """One key for each whole block of `ids`. `after`: the keys of the first blocks, where they are known already."""
    keys = list(after)
    previous = keys[-1] if keys else root(owner)
    for end in range((len(keys) + 1) * BLOCK_TOKENS, len(ids) + 1, BLOCK_TOKENS):
        previous = key_after(previous, ids[end - BLOCK_TOKENS : end])
        keys.append(previous)
    return keys


def root(owner: str) -> bytes:
    """The key of an owner's empty prefix: the salt of all that follow."""
    return hashlib.blake2b(owner.encode(), digest_size=_KEY_BYTES).digest()


def key_after(previous: bytes, ids: Sequence[int]) -> bytes:
    """The key of a prefix that goes on with these ids, in one block."""
    return hashlib.blake2b(previous + pack(f"<{len(ids)}I", *ids), digest_size=_KEY_BYTES).digest()


class PrefixIndex:
    """Block keys and the slots of the slot cache that hold them."""

    def __init__(self) -> None:
        self._slots: dict[bytes, set[int]] = {}

    def add(self, keys: Iterable[bytes], slot: int) -> None:
        for key in keys:
            self._slots.setdefault(key, set()).add(slot)

    def remove(self, keys: Iterable[bytes], slot: int) -> None:
        for key in keys:
            holders = self._slots[key]
            holders.discard(slot)
            if not holders:
                del self._slots[key]

    def longest(self, keys: Sequence[bytes]) -> tuple[int, frozenset[int]]:
        """How many blocks of this chain are held at most, and by which slots. A holder of a block has all before it."""
        for count in range(len(keys), 0, -1):
            if holders := self._slots.get(keys[count - 1]):
                return count, frozenset(holders)
        return 0, frozenset()
