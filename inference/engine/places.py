"""Where a packed pass keeps its keys and values: a cache, its budget, and the layout of passes over it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from inference.engine import paged, slot_attention, trial
from inference.engine.attention import Layout, Segment
from inference.engine.decoding import Decoder, Token
from inference.engine.lean import slim
from inference.engine.loading import LoadedModel
from inference.engine.paged import PagedCache
from inference.engine.paged_attention import PagedPass
from inference.engine.penalties import upload
from inference.engine.scheduler import Memory
from inference.engine.sequence import Row
from inference.engine.slots import LayerShape, SlotCache

# Of the memory that is free once the weights are loaded, what keys and values may take.
KV_SHARE = {"cpu": 0.5, "cuda": 0.9}
# What a GPU must have left for a pass over so many tokens; a CPU finds that in its other half.
ACTIVATION_TOKENS = 8192


class Cache(Memory[Row], Protocol):
    """SlotCache and PagedCache, as Packed uses them."""

    budget_tokens: int

    @property
    def held_tokens(self) -> int: ...

    def slot_of(self, occupant: Row) -> int: ...

    def commit(self, occupant: Row, computed: int) -> None: ...

    def spoil(self, occupant: Row) -> None: ...

    def clear(self) -> None: ...


class Place(Protocol):
    """A cache and the layout of passes over it."""

    @property
    def cache(self) -> Cache: ...

    def layout(self, segments: Sequence[Segment]) -> Layout:
        """For single tokens in the order of their slots, then chunks."""

    def decode(self, tokens: Sequence[Token]) -> Tensor | None:
        """Logits (N, V) of a step in which every request reads one token; None where there is no better way than a
        layout."""


class InSlots:
    """The slot cache."""

    def __init__(self, loaded: LoadedModel, shapes: Sequence[LayerShape], *, slots: int, budget_tokens: int) -> None:
        self._device, self._dtype = loaded.device, loaded.dtype
        if loaded.device.type == "cpu":
            slim(loaded.model)
        # A GPU's memory is taken at once, and not when it is first written.
        if loaded.device.type == "cuda":
            slots = max(1, min(slots, budget_tokens // loaded.context_length))
        # One more than the context: the scheduler asks for a token's room before it knows that the answer ends.
        self.cache = SlotCache(
            shapes, slots=slots, length=loaded.context_length + 1, budget_tokens=budget_tokens, dtype=loaded.dtype
        )

    def layout(self, segments: Sequence[Segment]) -> Layout:
        return slot_attention.Packed(self.cache, segments, self._device, self._dtype)

    def decode(self, tokens: Sequence[Token]) -> Tensor | None:
        return None


class InBlocks:
    """The paged cache."""

    def __init__(self, loaded: LoadedModel, shapes: Sequence[LayerShape], *, slots: int, budget_tokens: int) -> None:
        self._device = loaded.device
        block_tokens = paged.BLOCK_TOKENS[loaded.device.type]
        self._ways = trial.choose(shapes, block_tokens=block_tokens, dtype=loaded.dtype)
        self.cache = PagedCache(
            shapes,
            slots=slots,
            length=loaded.context_length + 1,
            budget_tokens=budget_tokens,
            dtype=loaded.dtype,
            block_tokens=block_tokens,
        )
        self._decoder = Decoder(loaded.model, self.cache, self._ways, slots=slots)
        self._decoder.prepare()

    def layout(self, segments: Sequence[Segment]) -> Layout:
        rows = [(part.slot, place) for part in segments for place in range(part.start, part.start + part.count)]
        slots, positions = upload(rows, torch.int64, self._device).t()
        singles = [part for part in segments if part.count == 1]
        return PagedPass(
            self.cache,
            self._ways,
            positions=positions,
            slots=slots,
            singles=len(singles),
            blocks=max((part.start // self.cache.block_tokens + 1 for part in singles), default=0),
            chunks=segments[len(singles) :],
        )

    def decode(self, tokens: Sequence[Token]) -> Tensor | None:
        return self._decoder.read(tokens)


def budget_of(loaded: LoadedModel, shapes: Sequence[LayerShape], slots: int) -> int:
    """How many tokens' keys and values fit into what is free: on each device, those of its own layers."""
    budgets = []
    for device in {shape.device for shape in shapes}:
        token_bytes = sum(shape.bytes(loaded.dtype) for shape in shapes if shape.device == device)
        free = _free_bytes(device)
        room = KV_SHARE[device.type] * free
        if device.type == "cuda":
            room = max(min(room, free - _activation_bytes(loaded, slots)), free / 4)
        budgets.append(int(room) // token_bytes)
    return min(budgets)


def _activation_bytes(loaded: LoadedModel, slots: int) -> int:
    """What a pass and the sampling after it take beside keys and values, generously: the widest layer's numbers several
    times over for each token, and four copies of the logits in float32."""
    config = loaded.model.config.get_text_config()
    widths = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    widest = max(widths) if isinstance(widths, list) else widths
    chosen = getattr(config, "num_experts_per_tok", None) or 0
    widest = max(widest, chosen * (getattr(config, "moe_intermediate_size", None) or widest))
    passed = ACTIVATION_TOKENS * loaded.dtype.itemsize * (8 * config.hidden_size + 4 * widest)
    return int(passed + 16 * slots * config.vocab_size)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
