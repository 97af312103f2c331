"""Attention over the paged cache.

Decoding requests, one token each, come first in a pass and are attended together. All that this needs is in tensors of
a fixed shape, so that a pass of them alone can be captured as a CUDA graph (`decoding`). Then come the chunks of
prompts, whose keys and values are gathered into one row, or used as they come where they are a prompt's first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from inference.engine.attention import Rule, Segment, additive, attend_batch, attend_chunk, chunk_mask
from inference.engine.kernels import Flash, Spans, Way, by_table, flash
from inference.engine.paged import PagedCache
from inference.engine.penalties import to_device


class Tokens(NamedTuple):
    """query (T, H, D) of some tokens; key and value (K, Hkv, D) of those that they may see."""

    query: Tensor
    key: Tensor
    value: Tensor


class PagedPass:
    """One pass over the cache: `singles` requests that decode, then the chunks.

    positions, slots: (T,) int64, each token's place in its request and the request's row of the block tables.
    blocks: as many columns of the tables as the longest of the singles needs. ways: how each layer reads the pool.
    """

    def __init__(
        self,
        cache: PagedCache,
        ways: Sequence[Way],
        *,
        positions: Tensor,
        slots: Tensor,
        singles: int,
        blocks: int,
        chunks: Sequence[Segment] = (),
    ) -> None:
        self.positions = positions[None]
        self._cache = cache
        self._ways = ways
        self._slots = slots
        self._singles = singles
        self._blocks = blocks
        self._chunks = chunks
        self._tables = cache.tables()
        self._parts: dict[torch.device, _Part] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        keys, values = self._cache.layer(layer)
        part = self._part(keys.device)
        keys.flatten(0, 1).index_copy_(0, part.places, key.to(keys.dtype))
        values.flatten(0, 1).index_copy_(0, part.places, value.to(values.dtype))
        way = self._ways[layer] if rule.softcap is None else Way.GATHERED
        done: list[Tensor] = []
        if self._singles:
            singles = part.decoding(rule.window)
            done.append(decode(query[: self._singles], keys, values, singles, way=way, rule=rule))
        if self._chunks:
            new = Tokens(query[self._singles :], key[self._singles :], value[self._singles :])
            done.append(part.read_chunks(new, keys, values, way=way, rule=rule))
        return done[0] if len(done) == 1 else torch.cat(done)

    def _part(self, device: torch.device) -> _Part:
        if device not in self._parts:
            self._parts[device] = _Part(
                self._tables[device],
                self.positions[0].to(device, non_blocking=True),
                self._slots.to(device, non_blocking=True),
                block_tokens=self._cache.block_tokens,
                singles=self._singles,
                blocks=self._blocks,
                chunks=self._chunks,
            )
        return self._parts[device]


class _Part:
    """What the layers of one device need. Tensors are made once a pass."""

    def __init__(
        self,
        table: Tensor,
        positions: Tensor,
        slots: Tensor,
        *,
        block_tokens: int,
        singles: int,
        blocks: int,
        chunks: Sequence[Segment],
    ) -> None:
        self._table = table
        self._size = block_tokens
        self._chunks = chunks
        self._tables = table.index_select(0, slots[:singles])[:, :blocks]
        self._lengths = positions[:singles] + 1
        self._decoding: dict[int | None, Decoding] = {}
        self._reads: dict[int | None, tuple[Tensor | None, Spans]] = {}
        self._masks: dict[tuple[Segment, int | None], Tensor | None] = {}
        # Where in the pool, as one row of tokens, each token of the pass goes.
        self.places = table[slots, positions // block_tokens].long() * block_tokens + positions % block_tokens

    def decoding(self, window: int | None) -> Decoding:
        if window not in self._decoding:
            self._decoding[window] = Decoding(self._tables, self._lengths, size=self._size, window=window)
        return self._decoding[window]

    def read_chunks(self, new: Tokens, keys: Tensor, values: Tensor, *, way: Way, rule: Rule) -> Tensor:
        """(T, H, Dv) for the chunks' tokens, whose keys and values are in the pool already."""
        if way is not Way.GATHERED:
            places, spans = self._spans(rule.window)
            if places is not None:
                seen, carried = (pool.flatten(0, 1).index_select(0, places) for pool in (keys, values))
                new = Tokens(new.query, seen, carried)
            return attend_prompts(new, spans, rule)
        done, row = [], 0
        for part in self._chunks:
            places = self._places_of(part, rule.window)
            seen, carried = (pool.flatten(0, 1).index_select(0, places) for pool in (keys, values))
            own = new.query[row : row + part.count]
            done.append(attend_chunk(own, seen, carried, self._mask(part, rule.window, own.dtype), rule))
            row += part.count
        return done[0] if len(done) == 1 else torch.cat(done)

    def _spans(self, window: int | None) -> tuple[Tensor | None, Spans]:
        """The places of the keys that the chunks see, one chunk after the other, and where each is among them. None
        where the pass's own keys are all."""
        if window not in self._reads:
            counts = [part.count for part in self._chunks]
            if any(part.start for part in self._chunks):
                places = [self._places_of(part, window) for part in self._chunks]
                spans = spans_of(counts, [len(each) for each in places], self._table.device)
                self._reads[window] = torch.cat(places), spans
            else:
                self._reads[window] = None, spans_of(counts, counts, self._table.device)
        return self._reads[window]

    def _places_of(self, part: Segment, window: int | None) -> Tensor:
        positions = torch.arange(part.low(window), part.start + part.count, device=self._table.device)
        blocks = self._table[part.slot].index_select(0, positions // self._size)
        return blocks.long() * self._size + positions % self._size

    def _mask(self, part: Segment, window: int | None, dtype: torch.dtype) -> Tensor | None:
        if (part, window) not in self._masks:
            self._masks[part, window] = chunk_mask(part, window, dtype=dtype, device=self._table.device)
        return self._masks[part, window]


class Decoding:
    """Requests of one token each, for layers of one window.

    tables (N, B) int32: the blocks that may be seen, of `size` tokens; lengths (N,) int64: the tokens so far.
    """

    def __init__(self, tables: Tensor, lengths: Tensor, *, size: int, window: int | None) -> None:
        self._size = size
        self._window = window
        columns = tables.shape[1]
        # A window of so many keys cannot touch more blocks than these.
        seen = columns if window is None else min(columns, (window + size - 2) // size + 1)
        first = torch.zeros_like(lengths) if window is None else (lengths - window).clamp(min=0) // size
        numbers = first[:, None] + torch.arange(seen, device=tables.device)
        self.tables = tables if seen == columns else tables.gather(1, numbers.clamp(max=columns - 1))
        self.whole_tables = tables
        self.lengths = lengths
        self._begins = numbers * size if seen < columns else (numbers - first[:, None]) * size

    @cached_property
    def lengths32(self) -> Tensor:
        return self.lengths.int()

    def mask(self, dtype: torch.dtype) -> Tensor:
        """(N, 1, 1, B * size), to be added to scores."""
        if dtype not in self._masks:
            places = self._begins[:, :, None] + torch.arange(self._size, device=self._begins.device)
            lengths = self.lengths[:, None, None]
            seen = places < lengths
            if self._window is not None:
                seen &= places >= lengths - self._window
            self._masks[dtype] = additive(seen.flatten(1), dtype)[:, None, None, :]
        return self._masks[dtype]

    @cached_property
    def _masks(self) -> dict[torch.dtype, Tensor]:
        return {}

    @cached_property
    def counted(self) -> Tensor:
        """(N, B) bool: the blocks of which something is seen."""
        return self._used > 0

    @cached_property
    def spans(self) -> Spans:
        """Each block of each request as a sequence over the pool as one row of tokens. Where nothing of a block is
        seen, the sequence has no keys, and what the kernel makes of it does not count."""
        keys = (self.tables * self._size + self._low.clamp(max=self._size - 1)).int().flatten()
        count = len(keys)
        return Spans(
            cu_queries=torch.arange(count + 1, dtype=torch.int32, device=keys.device),
            keys=torch.cat((keys, keys[-1:])),
            used=self._used.clamp(min=0).int().flatten(),
            longest_query=1,
            longest_key=self._size,
        )

    @cached_property
    def _low(self) -> Tensor:
        """(N, B): the first place in each block that is seen, beyond its end where that is none."""
        if self._window is None:
            return torch.zeros_like(self._begins)
        return (self.lengths[:, None] - self._window - self._begins).clamp(min=0)

    @cached_property
    def _used(self) -> Tensor:
        return (self.lengths[:, None] - self._begins).clamp(max=self._size) - self._low


def decode(
    query: Tensor, keys: Tensor, values: Tensor, requests: Decoding, *, way: Way, rule: Rule, kernel: Flash = flash
) -> Tensor:
    """(N, H, Dv) for one query (N, H, D) a request over the pool: keys and values (blocks, size, Hkv, D)."""
    if way is Way.GATHERED:
        seen, carried = (pool[requests.tables].flatten(1, 2) for pool in (keys, values))
        return attend_batch(query, seen, carried, requests.mask(query.dtype), rule)
    if way is Way.BY_TABLE:
        out, sums = by_table(query, keys, values, requests.whole_tables, lengths=requests.lengths32, rule=rule)
        return out if rule.sinks is None else _with_sinks(out, sums, rule.sinks)
    columns = requests.tables.shape[1]
    asked = query.repeat_interleave(columns, dim=0) if columns > 1 else query
    out, sums = kernel(asked, keys.flatten(0, 1), values.flatten(0, 1), requests.spans, rule._replace(window=None))
    if columns == 1:
        return out if rule.sinks is None else _with_sinks(out, sums, rule.sinks)
    out, sums = out.view(-1, columns, *out.shape[1:]), sums.view(len(sums), -1, columns)
    return _together(out, sums, requests.counted, rule.sinks)


def attend_prompts(new: Tokens, spans: Spans, rule: Rule, *, kernel: Flash = flash) -> Tensor:
    """(T, H, D) for the tokens of several prompts, each seeing its own keys up to itself."""
    out, sums = kernel(new.query, new.key, new.value, spans, rule)
    return out if rule.sinks is None else _with_sinks(out, sums, rule.sinks)


def spans_of(counts: Sequence[int], lengths: Sequence[int], device: torch.device) -> Spans:
    """Sequences that follow each other, of so many queries and keys."""
    rows = ([0, *counts], [0, *lengths], [*lengths, 0])
    queries, keys, used = to_device(torch.tensor(rows, dtype=torch.int32), device)
    return Spans(
        cu_queries=queries.cumsum(0, dtype=torch.int32),
        keys=keys.cumsum(0, dtype=torch.int32),
        used=used[:-1],
        longest_query=max(counts),
        longest_key=max(lengths),
    )


def _together(out: Tensor, sums: Tensor, counted: Tensor, sinks: Tensor | None) -> Tensor:
    """(N, H, D) of the parts (N, B, H, D) that each block gives, weighted by their log-sum-exp (H, N, B)."""
    scores = sums.float().masked_fill(~counted, -torch.inf)
    total = scores.logsumexp(-1)
    if sinks is not None:
        total = torch.logaddexp(total, sinks.float()[:, None])
    weights = (scores - total[:, :, None]).exp()
    parts = out.float().masked_fill(~counted[:, :, None, None], 0.0)
    return torch.einsum("hnb,nbhd->nhd", weights, parts).to(out.dtype)


def _with_sinks(out: Tensor, sums: Tensor, sinks: Tensor) -> Tensor:
    """out (T, H, D) as it is when a sink takes its share of each softmax, whose log-sum-exp without it is (H, T)."""
    share = torch.sigmoid(sums.float() - sinks.float()[:, None])
    return (out.float() * share.t()[:, :, None]).to(out.dtype)
