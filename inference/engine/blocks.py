"""The block pool: who holds which block of the paged KV cache, and which tokens lie in it. No tensors here.

A block holds the keys and values of up to `size` tokens that follow each other. What holds:

- Only a block with one user is written, and only behind what it holds: nobody's keys change, and full blocks never do.
- A block that nobody uses keeps what it holds until somebody needs the room; the one that was let go first goes first.
  A request lets its blocks go from the last to the first, so that the beginning of a conversation outlives its end.
- A block is found by a hash over all tokens before it and its own, salted with the owner (`prefixes`): owners never
  share, so nobody can measure what another has asked.
- A spoilt block is found by nobody, and is told to be zeroed when its last user has let it go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from inference.engine.prefixes import key_after

# How many of the blocks that begin where a prompt goes its own way are compared with it, the newest first.
CANDIDATES = 32


@dataclass(eq=False, slots=True)
class Block:
    """parent stands for the owner and all tokens before it, key for those and its own; None until it is full."""

    number: int
    users: int = 0
    parent: bytes = b""
    key: bytes | None = None
    ids: list[int] = field(default_factory=list)
    spoilt: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """What is held of a request: its first blocks, whole; then `common` tokens, in a block that goes on otherwise."""

    whole: list[Block]
    partial: Block | None
    common: int


class BlockPool:
    """`count` blocks of `size` tokens, numbered from `first`. For the engine's thread alone."""

    def __init__(self, count: int, size: int, *, first: int = 0) -> None:
        self.count = count
        self.size = size
        self._free = [Block(number) for number in reversed(range(first, first + count))]
        self._kept: dict[Block, None] = {}  # by when they were let go
        self._full: dict[bytes, dict[Block, None]] = {}  # by key
        self._begun: dict[bytes, dict[Block, None]] = {}  # by parent

    @property
    def available(self) -> int:
        """Blocks that take() would find."""
        return len(self._free) + len(self._kept)

    @property
    def used(self) -> int:
        return self.count - self.available

    def take(self) -> Block:
        """An empty block with one user. Raises LookupError where none is available."""
        if not self._free:
            if not self._kept:
                raise LookupError("every block is used")
            self._empty(next(iter(self._kept)))
        block = self._free.pop()
        block.users = 1
        return block

    def share(self, block: Block) -> None:
        """One more user for a block that match() has found."""
        self._kept.pop(block, None)
        block.users += 1

    def drop(self, block: Block) -> bool:
        """One user less. Returns whether the block has to be zeroed before it is taken again."""
        block.users -= 1
        if block.users:
            return False
        if block.ids and not block.spoilt:
            self._kept[block] = None
            return False
        spoilt = block.spoilt
        self._free_up(block)
        return spoilt

    def fill(self, block: Block, parent: bytes, ids: Sequence[int]) -> None:
        """The keys and values of `ids` are in the block now, behind those it held. Only for its one user."""
        if block.users != 1 or len(block.ids) + len(ids) > self.size:
            raise ValueError(f"block {block.number} is shared, or has no room for {len(ids)} more tokens")
        if not block.ids:
            block.parent = parent
        block.ids += ids
        if block.spoilt:
            return
        self._begun.setdefault(block.parent, {})[block] = None
        if len(block.ids) == self.size:
            block.key = key_after(block.parent, block.ids)
            self._full.setdefault(block.key, {})[block] = None

    def match(self, root: bytes, ids: Sequence[int], most: int) -> Match:
        """What is held of the first `most` of `ids`. root: the key of an owner's empty prefix."""
        whole: list[Block] = []
        parent = root
        for start in range(0, most - self.size + 1, self.size):
            key = key_after(parent, ids[start : start + self.size])
            holders = self._full.get(key)
            if not holders:
                break
            whole.append(next(iter(holders)))
            parent = key
        rest = ids[len(whole) * self.size : min(most, (len(whole) + 1) * self.size)]
        partial, common = None, 0
        for block in islice(reversed(self._begun.get(parent, {})), CANDIDATES):
            alike = _alike(block.ids, rest)
            if alike > common:
                partial, common = block, alike
        return Match(whole, partial, common)

    def spoil(self, block: Block) -> None:
        """Nobody is to find this block any more."""
        self._forget(block)
        block.spoilt = True

    def _empty(self, block: Block) -> None:
        del self._kept[block]
        self._free_up(block)

    def _free_up(self, block: Block) -> None:
        self._forget(block)
        block.ids = []
        block.spoilt = False
        self._free.append(block)

    def _forget(self, block: Block) -> None:
        _remove(self._begun, block.parent, block)
        if block.key is not None:
            _remove(self._full, block.key, block)
        block.key = None


def _remove(index: dict[bytes, dict[Block, None]], key: bytes, block: Block) -> None:
    holders = index.get(key)
    if holders is None or block not in holders:
        return
    del holders[block]
    if not holders:
        del index[key]


def _alike(held: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens both begin with."""
    low, high = 0, min(len(held), len(ids))
    while low < high:
        middle = (low + high + 1) // 2
        if held[low:middle] == ids[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
