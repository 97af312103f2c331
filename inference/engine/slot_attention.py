"""Attention over the slot cache: decoding requests, one token each, in groups of neighbouring slots; each chunk of a
prompt by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from inference.engine.attention import Rule, Segment, additive, attend_batch, attend_chunk, chunk_mask

# What one more group costs, in tokens of padded keys and values that could be read instead.
CALL_COST_TOKENS = 384


class Storage(Protocol):
    """Where keys and values lie: two tensors a layer, of shape (slots, length, Hkv, D), whose D may differ."""

    def layer(self, index: int) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Group:
    """Decoding requests in the slots [slot, slot + count), rows [row, row + count) of the pass. Keys [low, high) are
    read; mask of shape (count, 1, 1, high - low) is None where all of them count for everyone."""

    row: int
    slot: int
    count: int
    low: int
    high: int
    mask: Tensor | None


@dataclass
class Packed:
    """One pass: single tokens first, in the order of their slots, then the chunks. Masks are made once a pass."""

    storage: Storage
    segments: Sequence[Segment]
    device: torch.device
    dtype: torch.dtype
    _groups: dict[int | None, list[Group]] = field(default_factory=dict)
    _masks: dict[tuple[Segment, int | None], Tensor | None] = field(default_factory=dict)

    @cached_property
    def positions(self) -> Tensor:
        """Shape (1, T): each token's place in its request."""
        places = [torch.arange(part.start, part.start + part.count) for part in self.segments]
        return torch.cat(places)[None].to(self.device)

    @cached_property
    def slots(self) -> Tensor:
        """Shape (T,): each token's slot."""
        slots = torch.tensor([part.slot for part in self.segments])
        counts = torch.tensor([part.count for part in self.segments])
        return slots.repeat_interleave(counts).to(self.device)

    @cached_property
    def singles(self) -> list[Segment]:
        return [part for part in self.segments if part.count == 1]

    @cached_property
    def chunks(self) -> list[tuple[int, Segment]]:
        """Each longer segment with the row at which it begins."""
        found, row = [], 0
        for part in self.segments:
            if part.count > 1:
                found.append((row, part))
            row += part.count
        return found

    def groups(self, window: int | None) -> list[Group]:
        """The single tokens, in runs of neighbouring slots whose lengths are worth padding to the longest."""
        if window not in self._groups:
            self._groups[window] = [self._group(row, run, window) for row, run in _runs(self.singles)]
        return self._groups[window]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        keys, values = self.storage.layer(layer)
        slots, places = (part.to(keys.device) for part in (self.slots, self.positions[0]))
        keys[slots, places] = key
        values[slots, places] = value
        parts: list[Tensor] = []
        for group in self.groups(rule.window):
            rows = query[group.row : group.row + group.count]
            own = slice(group.slot, group.slot + group.count), slice(group.low, group.high)
            parts.append(attend_batch(rows, keys[own], values[own], group.mask, rule))
        for row, part in self.chunks:
            mask = self.chunk_mask(part, rule.window)
            seen = part.slot, slice(part.low(rule.window), part.start + part.count)
            parts.append(attend_chunk(query[row : row + part.count], keys[seen], values[seen], mask, rule))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _group(self, row: int, run: list[Segment], window: int | None) -> Group:
        lengths = [part.start + 1 for part in run]
        lows = [part.low(window) for part in run]
        low, high = min(lows), max(lengths)
        mask = None
        if min(lengths) < high or max(lows) > low:
            keys = torch.arange(low, high)
            seen = (keys < torch.tensor(lengths)[:, None]) & (keys >= torch.tensor(lows)[:, None])
            mask = additive(seen, self.dtype)[:, None, None, :].to(self.device)
        return Group(row, run[0].slot, len(run), low, high, mask)

    def chunk_mask(self, part: Segment, window: int | None) -> Tensor | None:
        """Made once for all layers of a window."""
        place = (part, window)
        if place not in self._masks:
            self._masks[place] = chunk_mask(part, window, dtype=self.dtype, device=self.device)
        return self._masks[place]


def _runs(singles: Sequence[Segment]) -> list[tuple[int, list[Segment]]]:
    """Neighbouring slots, as long as padding the shorter ones costs less than another call, with their first rows."""
    runs: list[tuple[int, list[Segment]]] = []
    longest = 0
    for row, part in enumerate(singles):
        length = part.start + 1
        if runs and runs[-1][1][-1].slot + 1 == part.slot:
            run = runs[-1][1]
            padding = len(run) * (max(longest, length) - longest) + max(0, longest - length)
            if padding <= CALL_COST_TOKENS:
                run.append(part)
                longest = max(longest, length)
                continue
        runs.append((row, [part]))
        longest = length
    return runs
