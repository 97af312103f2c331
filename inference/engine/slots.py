"""The slot cache: keys and values of each request in a row of its own, for attention kernels that want them contiguous.

A slot whose request has ended keeps what it holds until somebody needs the room, and a request that begins with the
same tokens, of the same owner, takes the slot over, or copies the common part. Memory is counted in blocks of tokens
against one budget; what is only kept goes first, the least recently used before the others.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from inference.engine.prefixes import BLOCK_TOKENS, PrefixIndex, chain


class Occupant(Protocol):
    """What the cache needs of a request: all ids known so far, and whose they are."""

    ids: list[int]
    owner: str


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer's keys (heads, key_width) and values (heads, value_width) for a token, and how many heads ask."""

    heads: int
    key_width: int
    value_width: int
    device: torch.device
    query_heads: int

    def bytes(self, dtype: torch.dtype) -> int:
        return self.heads * (self.key_width + self.value_width) * dtype.itemsize


@dataclass
class _Slot:
    number: int
    occupant: Occupant | None = None
    ids: list[int] = field(default_factory=list)  # whose keys and values it holds
    keys: list[bytes] = field(default_factory=list)  # of the whole blocks of ids
    charged: int = 0  # tokens of the budget
    used: int = 0


class SlotCache:
    """`slots` requests of up to `length` tokens, together at most `budget_tokens`. For the engine's thread alone."""

    def __init__(
        self, shapes: Sequence[LayerShape], *, slots: int, length: int, budget_tokens: int, dtype: torch.dtype
    ) -> None:
        self.budget_tokens = _blocks(min(budget_tokens, slots * length))
        self._length = length
        self._layers = [_Layer(shape, slots, length, dtype) for shape in shapes]
        self._slots = [_Slot(number) for number in range(slots)]
        self._places: dict[int, _Slot] = {}
        self._index = PrefixIndex()
        self._clock = count(1)

    @property
    def held_tokens(self) -> int:
        """Tokens charged to requests that run; what is kept for later does not count."""
        return sum(slot.charged for slot in self._slots if slot.occupant is not None)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each of shape (slots, length, heads, width)."""
        layer = self._layers[index]
        return layer.keys, layer.values

    def slot_of(self, occupant: Occupant) -> int:
        return self._places[id(occupant)].number

    def admit(self, occupant: Occupant) -> int | None:
        """Give the request a slot. Returns how many of its tokens are in it already; None where no slot is free."""
        free = [slot for slot in self._slots if slot.occupant is None]
        if not free:
            return None
        source, cached = self._match(occupant)
        slot = self._choose(free, source, cached)
        slot.occupant, slot.used = occupant, next(self._clock)
        self._places[id(occupant)] = slot
        if source is not slot:
            self._empty(slot)
            if source is None or not self._charge(slot, cached):
                return 0
            self._copy(source, slot, cached)
        self._cut(slot, cached)
        return cached

    def grow(self, occupant: Occupant, tokens: int) -> bool:
        """Make room for `tokens` tokens of the request in all; False where neither slot nor budget has it."""
        return tokens <= self._length and self._charge(self._places[id(occupant)], tokens)

    def release(self, occupant: Occupant) -> None:
        """Take the slot back. What it holds is kept for whoever begins with the same tokens."""
        slot = self._places.pop(id(occupant))
        slot.occupant, slot.charged = None, _blocks(len(slot.ids))

    def commit(self, occupant: Occupant, computed: int) -> None:
        """The keys and values of the first `computed` tokens are there now."""
        slot = self._places[id(occupant)]
        slot.ids += occupant.ids[len(slot.ids) : computed]
        if len(slot.ids) // BLOCK_TOKENS > len(slot.keys):
            known = len(slot.keys)
            slot.keys = chain(slot.ids, owner=occupant.owner, after=slot.keys)
            self._index.add(slot.keys[known:], slot.number)

    def spoil(self, occupant: Occupant) -> None:
        """Forget what the request's slot holds: numbers that are not finite must not reach who comes next."""
        slot = self._places[id(occupant)]
        self._cut(slot, 0)
        for layer in self._layers:
            layer.scrub(slot.number)

    def clear(self) -> None:
        """Forget everything and zero it, what running requests hold included."""
        self._places.clear()
        for slot in self._slots:
            slot.occupant = None
            self._cut(slot, 0)
        for layer in self._layers:
            layer.clear()

    def _match(self, occupant: Occupant) -> tuple[_Slot | None, int]:
        """The slot with the longest common prefix, a free one before a busy one, and that prefix's length."""
        keys = chain(occupant.ids, owner=occupant.owner)
        blocks, holders = self._index.longest(keys)
        if not blocks:
            return None, 0
        source = min(
            (self._slots[number] for number in holders), key=lambda slot: (slot.occupant is not None, -slot.used)
        )
        cached = blocks * BLOCK_TOKENS
        # Within the block that differs, the ids up to the difference are good too.
        while cached < min(len(source.ids), len(occupant.ids)) and source.ids[cached] == occupant.ids[cached]:
            cached += 1
        # The last known token is always read: its logits are what comes next.
        return source, min(cached, len(occupant.ids) - 1)

    def _choose(self, free: list[_Slot], source: _Slot | None, cached: int) -> _Slot:
        """The source itself, unless it is busy or another branch would lose more there than a copy costs."""
        if source in free and (2 * cached >= len(source.ids) or len(free) == 1):
            return source
        others = [slot for slot in free if slot is not source]
        return min(others, key=lambda slot: (bool(slot.ids), slot.used if slot.ids else slot.number))

    def _charge(self, slot: _Slot, tokens: int) -> bool:
        more = _blocks(tokens) - slot.charged
        if more <= 0:
            return True
        total = sum(each.charged for each in self._slots)
        kept = sorted((each for each in self._slots if each.occupant is None and each.ids), key=lambda each: each.used)
        if total + more - sum(each.charged for each in kept) > self.budget_tokens:
            return False
        for victim in kept:
            if total + more <= self.budget_tokens:
                break
            total -= victim.charged
            self._empty(victim)
        slot.charged += more
        return True

    def _copy(self, source: _Slot, target: _Slot, tokens: int) -> None:
        for layer in self._layers:
            layer.keys[target.number, :tokens] = layer.keys[source.number, :tokens]
            layer.values[target.number, :tokens] = layer.values[source.number, :tokens]
        target.ids, target.keys = source.ids[:tokens], source.keys[: tokens // BLOCK_TOKENS]
        self._index.add(target.keys, target.number)

    def _cut(self, slot: _Slot, tokens: int) -> None:
        """Forget what is behind the first `tokens` tokens."""
        self._index.remove(slot.keys[tokens // BLOCK_TOKENS :], slot.number)
        del slot.ids[tokens:], slot.keys[tokens // BLOCK_TOKENS :]
        slot.charged = _blocks(tokens)

    def _empty(self, slot: _Slot) -> None:
        if not slot.ids:
            slot.charged = 0
            return
        self._cut(slot, 0)
        for layer in self._layers:
            layer.give_back(slot.number)


class _Layer:
    """The two tensors of a layer. In memory a head's tokens lie side by side, so that a kernel reads them in one go;
    the dimensions stand as (slots, length, heads, width). On CPU their pages come from the system when they are first
    written, zeroed, and go back when a slot is emptied: slots of the whole context's length cost what they hold."""

    def __init__(self, shape: LayerShape, slots: int, length: int, dtype: torch.dtype) -> None:
        self._memory: list[tuple[mmap.mmap, int]] = []
        self.keys = self._tensor((slots, shape.heads, length, shape.key_width), shape.device, dtype).transpose(1, 2)
        self.values = self._tensor((slots, shape.heads, length, shape.value_width), shape.device, dtype).transpose(1, 2)

    def scrub(self, slot: int) -> None:
        """Zero a slot. A masked key counts nothing, but zero times what is not finite is not finite."""
        self.keys[slot].zero_()
        self.values[slot].zero_()

    def give_back(self, slot: int) -> None:
        """Return a slot's pages to the system; those that reach into a neighbour stay."""
        for memory, stride in self._memory:
            begin = math.ceil(slot * stride / mmap.PAGESIZE) * mmap.PAGESIZE
            end = (slot + 1) * stride // mmap.PAGESIZE * mmap.PAGESIZE
            if end > begin:
                memory.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def clear(self) -> None:
        """Zero all slots."""
        for memory, _ in self._memory:
            memory.madvise(mmap.MADV_DONTNEED)
        if not self._memory:
            self.keys.zero_()
            self.values.zero_()

    def _tensor(self, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        if device.type != "cpu" or not hasattr(mmap, "MADV_DONTNEED"):
            return torch.zeros(shape, dtype=dtype, device=device)
        size = math.prod(shape) * dtype.itemsize
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.append((memory, size // shape[0]))
        return torch.frombuffer(memory, dtype=dtype).view(shape)


def _blocks(tokens: int) -> int:
    return math.ceil(tokens / BLOCK_TOKENS) * BLOCK_TOKENS
