"""Attention for a packed pass: tokens of many requests in one row, each seeing the keys of its own request alone.

Everything in a decoder but attention treats tokens one by one, so a pass needs no padding: input_ids has shape (1, T),
and transformers' modelling code calls `attend` here (its attention interface) with queries (1, H, T, D) and the new
keys and values (1, Hkv, T, D). They are written to the KV cache; then the decoding requests, one token each, are
attended in groups of neighbouring slots, and each chunk of a prompt by itself.

    AttentionInterface: https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

IMPLEMENTATION = "lambda_chat"
# What one more group costs, in tokens of padded keys and values that could be read instead.
CALL_COST_TOKENS = 384
# From so many requests on, two products for all of them are faster on a CPU than the fused kernel, which makes two
# small ones for each head of each request: 0.66 ms a layer against 1.74 for 32 requests of 150 tokens, on one core.
PRODUCTS_FROM = 4


class Storage(Protocol):
    """Where keys and values lie: two tensors a layer, of shape (slots, length, Hkv, D), whose D may differ."""

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, start + count) of the request in `slot`."""

    slot: int
    start: int
    count: int


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

    def _group(self, row: int, run: list[Segment], window: int | None) -> Group:
        lengths = [part.start + 1 for part in run]
        lows = [_low(part.start, window) for part in run]
        low, high = min(lows), max(lengths)
        mask = None
        if min(lengths) < high or max(lows) > low:
            keys = torch.arange(low, high)
            seen = (keys < torch.tensor(lengths)[:, None]) & (keys >= torch.tensor(lows)[:, None])
            mask = self._additive(seen)[:, None, None, :]
        return Group(row, run[0].slot, len(run), low, high, mask)

    def chunk_mask(self, part: Segment, window: int | None) -> Tensor | None:
        """Shape (count, keys), keys from `_low(start)`; None where plain causality from position 0 says it all."""
        place = (part, window)
        if place not in self._masks:
            low, high = _low(part.start, window), part.start + part.count
            if part.start == 0 and (window is None or high <= window):
                self._masks[place] = None
            else:
                queries = torch.arange(part.start, high)[:, None]
                keys = torch.arange(low, high)
                seen = keys <= queries
                if window is not None:
                    seen &= keys > queries - window
                self._masks[place] = self._additive(seen)
        return self._masks[place]

    def _additive(self, seen: Tensor) -> Tensor:
        # Booleans are turned into numbers by the CPU kernel, in each layer anew.
        lowest = torch.finfo(self.dtype).min
        return torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, lowest).to(self.device)


class _Rule(NamedTuple):
    """How a layer attends. Few models have a cap on scores (Gemma 2) or sinks, which take a share of each softmax."""

    scaling: float | None
    softcap: float | None
    sinks: Tensor | None  # (H,)

    @property
    def plain(self) -> bool:
        """Whether the fused kernel computes it."""
        return self.softcap is None and self.sinks is None


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed: Packed | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. Returns (1, T, H, Dv). Only for passes that carry a Packed."""
    if packed is None:
        raise RuntimeError("a forward pass of a packed model needs its Packed")
    keys, values = packed.storage.layer(module.layer_idx, key, value)
    slots, places = packed.slots, packed.positions[0]
    keys[slots, places] = key[0].transpose(0, 1)
    values[slots, places] = value[0].transpose(0, 1)
    rule = _Rule(scaling, softcap, s_aux)
    parts: list[Tensor] = []
    queries = query[0].transpose(0, 1)  # (T, H, D)
    for group in packed.groups(sliding_window):
        parts.append(_attend_group(queries, keys, values, group, rule))
    for row, part in packed.chunks:
        mask = packed.chunk_mask(part, sliding_window)
        own = part.slot, slice(_low(part.start, sliding_window), part.start + part.count)
        parts.append(_attend_chunk(queries[row : row + part.count], keys[own], values[own], mask, rule))
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined[None], None


def _attend_group(queries: Tensor, keys: Tensor, values: Tensor, group: Group, rule: _Rule) -> Tensor:
    """(count, H, Dv). The queries that share a key head stand where a prompt's tokens would: no key is repeated."""
    rows = queries[group.row : group.row + group.count]
    key_heads = keys.shape[2]
    asked = rows.view(group.count, key_heads, -1, rows.shape[-1])
    own = slice(group.slot, group.slot + group.count), slice(group.low, group.high)
    seen, carried = keys[own].transpose(1, 2), values[own].transpose(1, 2)
    if rule.plain and (group.count < PRODUCTS_FROM or keys.device.type != "cpu"):
        out = functional.scaled_dot_product_attention(asked, seen, carried, attn_mask=group.mask, scale=rule.scaling)
    else:
        sinks = None if rule.sinks is None else rule.sinks.view(1, key_heads, -1, 1)
        # A product copies what does not lie in one piece, and its own way of copying is the slower one.
        out = _step_by_step(asked, seen.contiguous(), carried.contiguous(), group.mask, rule._replace(sinks=sinks))
    return out.reshape(group.count, rows.shape[1], -1)


def _attend_chunk(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: _Rule) -> Tensor:
    """(count, H, Dv) for one request's queries (count, H, D), keys and values (length, Hkv, D)."""
    asked, seen, carried = (part[None].transpose(1, 2) for part in (queries, keys, values))
    if rule.plain:
        out = functional.scaled_dot_product_attention(
            asked, seen, carried, attn_mask=mask, is_causal=mask is None, scale=rule.scaling, enable_gqa=True
        )
    else:
        count, repeats = asked.shape[2], asked.shape[1] // seen.shape[1]
        if mask is None:
            mask = torch.full((count, count), torch.finfo(asked.dtype).min, device=asked.device).triu(1).to(asked.dtype)
        sinks = None if rule.sinks is None else rule.sinks.view(1, -1, 1, 1)
        seen, carried = seen.repeat_interleave(repeats, dim=1), carried.repeat_interleave(repeats, dim=1)
        out = _step_by_step(asked, seen, carried, mask, rule._replace(sinks=sinks))
    return out[0].transpose(0, 1)


def _step_by_step(asked: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: _Rule) -> Tensor:
    """Attention by plain products, in float32 between them. Sinks broadcast to (B, heads, queries, 1)."""
    scores = (asked @ keys.transpose(-1, -2)).float()
    scores *= rule.scaling if rule.scaling is not None else asked.shape[-1] ** -0.5
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is not None:
        scores += mask
    if rule.sinks is not None:
        scores = torch.cat([scores, rule.sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32)[..., : keys.shape[-2]]
    return weights.to(values.dtype) @ values


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


def _low(start: int, window: int | None) -> int:
    """The first position that a token at `start` sees."""
    return max(0, start - window + 1) if window is not None else 0


AttentionInterface.register(IMPLEMENTATION, attend)
