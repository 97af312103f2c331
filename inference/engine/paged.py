"""The paged cache: keys and values in blocks of one pool a layer, and for each request a table of its blocks.

A request holds as many blocks as its tokens need, wherever they lie. What several requests of an owner begin with, they
share (`blocks`). Block 0 belongs to nobody: the rows that pad a pass write there and read from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

import torch
from torch import Tensor

from inference.engine.blocks import Block, BlockPool
from inference.engine.prefixes import root
from inference.engine.slots import LayerShape, Occupant

# Flash attention's kernels read block tables of blocks of 256 tokens, or more; elsewhere small blocks waste less.
BLOCK_TOKENS = {"cpu": 32, "cuda": 256}
SCRATCH_BLOCK = 0


@dataclass
class _Held:
    slot: int
    root: bytes
    blocks: list[Block] = field(default_factory=list)
    done: int = 0  # tokens whose keys and values are there


class PagedCache:
    """`slots` requests of up to `length` tokens, together at most `budget_tokens`. For the engine's thread alone.

    A request's slot is its row in the block tables, of shape (slots + 1, width), whose last row is for padding.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        *,
        slots: int,
        length: int,
        budget_tokens: int,
        dtype: torch.dtype,
        block_tokens: int,
    ) -> None:
        self.block_tokens = block_tokens
        self.width = math.ceil(length / block_tokens)
        count = max(1, min(budget_tokens // block_tokens, slots * self.width))
        self.budget_tokens = count * block_tokens
        self.pad_slot = slots
        self._length = length
        self._pool = BlockPool(count, block_tokens, first=SCRATCH_BLOCK + 1)
        self._layers = [_Layer(shape, count + 1, block_tokens, dtype) for shape in shapes]
        self._free_slots = list(range(slots))
        self._held: dict[int, _Held] = {}
        self._table = torch.full((slots + 1, self.width), SCRATCH_BLOCK, dtype=torch.int32)
        self._tables = {device: self._table.to(device, copy=True) for device in self.devices}
        self._changed = False
        heapify(self._free_slots)

    @property
    def devices(self) -> set[torch.device]:
        return {layer.keys.device for layer in self._layers}

    @property
    def held_tokens(self) -> int:
        """Tokens of blocks that running requests hold, shared ones counted once."""
        return self._pool.used * self.block_tokens

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each of shape (blocks, block_tokens, heads, width)."""
        layer = self._layers[index]
        return layer.keys, layer.values

    def tables(self) -> dict[torch.device, Tensor]:
        """The block tables, int32, on each device of the cache. Always the same tensors, which a captured pass reads;
        they are brought up to date here, without waiting for the device."""
        if self._changed:
            for device, table in self._tables.items():
                # A copy, so that the transfer may still run when the next request changes the original.
                source = self._table.pin_memory() if device.type == "cuda" else self._table.clone()
                table.copy_(source, non_blocking=True)
            self._changed = False
        return self._tables

    def slot_of(self, occupant: Occupant) -> int:
        return self._held[id(occupant)].slot

    def blocks_of(self, occupant: Occupant) -> list[Block]:
        """In the order of the tokens."""
        return list(self._held[id(occupant)].blocks)

    def admit(self, occupant: Occupant) -> int | None:
        """Give the request a slot. Returns how many of its tokens are held already; None where no slot is free."""
        if not self._free_slots:
            return None
        held = _Held(heappop(self._free_slots), root(occupant.owner))
        self._held[id(occupant)] = held
        # The last known token is always read: its logits are what comes next.
        match = self._pool.match(held.root, occupant.ids, len(occupant.ids) - 1)
        for block in match.whole:
            self._pool.share(block)
        held.blocks += match.whole
        held.done = len(match.whole) * self.block_tokens
        if match.partial is not None and self._continue(held, match.partial, match.common):
            held.done += match.common
        self._write_table(held, 0)
        return held.done

    def grow(self, occupant: Occupant, tokens: int) -> bool:
        """Make room for `tokens` tokens of the request in all; False where neither table nor pool has it."""
        held = self._held[id(occupant)]
        before = len(held.blocks)
        more = math.ceil(tokens / self.block_tokens) - before
        if tokens > self._length or more > self._pool.available:
            return False
        if more > 0:
            held.blocks += [self._pool.take() for _ in range(more)]
            self._write_table(held, before)
        return True

    def release(self, occupant: Occupant) -> None:
        """Take slot and blocks back. What they hold is kept for whoever begins with the same tokens."""
        held = self._held.pop(id(occupant))
        for block in reversed(held.blocks):
            self._drop(block)
        self._table[held.slot] = SCRATCH_BLOCK
        self._changed = True
        heappush(self._free_slots, held.slot)

    def commit(self, occupant: Occupant, computed: int) -> None:
        """The keys and values of the first `computed` tokens are there now."""
        held = self._held[id(occupant)]
        while held.done < computed:
            place = held.done // self.block_tokens
            end = min(computed, (place + 1) * self.block_tokens)
            # Behind a block that was spoilt nothing can be found.
            parent = held.blocks[place - 1].key or b"" if place else held.root
            self._pool.fill(held.blocks[place], parent, occupant.ids[held.done : end])
            held.done = end

    def spoil(self, occupant: Occupant) -> None:
        """What the request has read is not to be used by anyone: it may hold numbers that are not finite."""
        for block in self._held[id(occupant)].blocks:
            self._pool.spoil(block)

    def clear(self) -> None:
        """Forget everything and zero it, what running requests hold included."""
        self._pool = BlockPool(self._pool.count, self.block_tokens, first=SCRATCH_BLOCK + 1)
        self._free_slots = list(range(self.pad_slot))
        self._held.clear()
        self._table.fill_(SCRATCH_BLOCK)
        self._changed = True
        for layer in self._layers:
            layer.keys.zero_()
            layer.values.zero_()

    def _continue(self, held: _Held, source: Block, common: int) -> bool:
        """Go on behind the first `common` tokens of a block: in the block itself where nothing else is in it and nobody
        uses it, else in a copy. False where there is no room for one."""
        self._pool.share(source)
        if source.users == 1 and common == len(source.ids) < self.block_tokens:
            held.blocks.append(source)
            return True
        own = self._pool.take() if self._pool.available else None
        if own is not None:
            for layer in self._layers:
                layer.keys[own.number, :common] = layer.keys[source.number, :common]
                layer.values[own.number, :common] = layer.values[source.number, :common]
            parent = held.blocks[-1].key or b"" if held.blocks else held.root
            self._pool.fill(own, parent, source.ids[:common])
            held.blocks.append(own)
        self._drop(source)
        return own is not None

    def _drop(self, block: Block) -> None:
        if self._pool.drop(block):
            for layer in self._layers:
                # A masked key counts nothing, but zero times what is not finite is not finite.
                layer.keys[block.number].zero_()
                layer.values[block.number].zero_()

    def _write_table(self, held: _Held, start: int) -> None:
        numbers = [block.number for block in held.blocks[start:]]
        self._table[held.slot, start : len(held.blocks)] = torch.tensor(numbers, dtype=torch.int32)
        self._changed = True


class _Layer:
    """The two pools of a layer, zeroed: no number that is not finite may lie behind a mask."""

    def __init__(self, shape: LayerShape, blocks: int, block_tokens: int, dtype: torch.dtype) -> None:
        size = (blocks, block_tokens, shape.heads)
        self.keys = torch.zeros((*size, shape.key_width), dtype=dtype, device=shape.device)
        self.values = torch.zeros((*size, shape.value_width), dtype=dtype, device=shape.device)
