"""The ways in which decoding requests read the block pool, where no GPU is: the kernels are torch's, and CUDA's alone,
so another that keeps their contract stands in for them. What they are given and what is made of it is ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference.engine import kernels, trial
from inference.engine.attention import Rule, Segment, attend_chunk, chunk_mask
from inference.engine.kernels import Spans, Way
from inference.engine.paged_attention import Decoding, Tokens, attend_prompts, decode, spans_of
from inference.engine.slots import LayerShape

CPU = torch.device("cpu")
SIZE = 16
HEADS, KEY_HEADS, WIDTH = 6, 2, 8
LENGTHS = (1, 16, 17, 55)
RULES = [Rule(scaling, window) for scaling in (None, 0.3) for window in (None, 1, 5, 16, 20, 64)]


def reference(query: Tensor, key: Tensor, value: Tensor, spans: Spans, rule: Rule) -> tuple[Tensor, Tensor]:
    """What `kernels.Flash` promises, one sequence after the other. Nothing is said of sequences without keys: here it
    is not a number, as the worst that could be."""
    out, sums = torch.full_like(query, torch.nan), torch.full((query.shape[1], len(query)), torch.nan)
    repeats = query.shape[1] // key.shape[1]
    for n, used in enumerate(spans.used.tolist()):
        first, last = spans.cu_queries[n : n + 2].tolist()
        begin = int(spans.keys[n])
        if not used:
            continue
        seen, carried = (part[begin : begin + used].repeat_interleave(repeats, 1) for part in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[first:last], seen) * (rule.scaling or query.shape[-1] ** -0.5)
        places = torch.arange(used) - torch.arange(used - (last - first), used)[:, None]
        hidden = places > 0
        if rule.window is not None:
            hidden |= places <= -rule.window
        scores = scores.masked_fill(hidden, -torch.inf)
        out[first:last] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), carried)
        sums[:, first:last] = scores.logsumexp(-1)
    return out, sums


@pytest.fixture
def chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("columns", [4, 6])
@pytest.mark.parametrize("sinks", [False, True])
def test_blocks_read_one_by_one_give_what_all_of_them_give_together(
    rule: Rule, columns: int, sinks: bool, chance: torch.Generator
) -> None:
    tables = (1 + torch.randperm(4 * columns, generator=chance)).view(4, columns).int()
    keys, values = torch.randn(2, 1 + 4 * columns, SIZE, KEY_HEADS, WIDTH, generator=chance)
    query = torch.randn(4, HEADS, WIDTH, generator=chance)
    rule = rule._replace(sinks=torch.randn(HEADS, generator=chance) if sinks else None)
    requests = Decoding(tables, torch.tensor(LENGTHS), size=SIZE, window=rule.window)
    got, wanted = (
        decode(query, keys, values, requests, way=way, rule=rule, kernel=reference)
        for way in (Way.BY_BLOCK, Way.GATHERED)
    )
    torch.testing.assert_close(got, wanted)
    for n, length in enumerate(LENGTHS):
        own = (pool[tables[n].long()].flatten(0, 1)[:length] for pool in (keys, values))
        last = Segment(0, length - 1, 1)
        seen, carried = (pool[last.low(rule.window) :] for pool in own)
        alone = attend_chunk(query[n : n + 1], seen, carried, chunk_mask(last, rule.window, **like(keys)), rule)
        torch.testing.assert_close(got[n], alone[0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sinks", [False, True])
def test_the_tokens_of_several_prompts_see_their_own_keys_up_to_themselves(
    rule: Rule, sinks: bool, chance: torch.Generator
) -> None:
    parts = [Segment(0, 0, 9), Segment(1, 30, 4), Segment(2, 3, 20)]
    lengths = [part.start + part.count - part.low(rule.window) for part in parts]
    key, value = torch.randn(2, sum(lengths), KEY_HEADS, WIDTH, generator=chance)
    query = torch.randn(sum(part.count for part in parts), HEADS, WIDTH, generator=chance)
    rule = rule._replace(sinks=torch.randn(HEADS, generator=chance) if sinks else None)
    spans = spans_of([part.count for part in parts], lengths, CPU)
    got = attend_prompts(Tokens(query, key, value), spans, rule, kernel=reference)
    wanted = [
        attend_chunk(*pieces, chunk_mask(part, rule.window, **like(key)), rule)
        for part, *pieces in zip(
            parts,
            query.split([part.count for part in parts]),
            key.split(lengths),
            value.split(lengths),
            strict=True,
        )
    ]
    torch.testing.assert_close(got, torch.cat(wanted))


def like(tensor: Tensor) -> dict[str, object]:
    return {"dtype": tensor.dtype, "device": tensor.device}


def test_what_flash_attention_is_not_built_for_is_gathered() -> None:
    shapes = [LayerShape(2, 64, 64, CPU, 4), LayerShape(2, 192, 128, CPU, 4)]
    assert trial.choose(shapes, block_tokens=256, dtype=torch.bfloat16) == [Way.GATHERED, Way.GATHERED]


@pytest.mark.parametrize("way", [Way.BY_BLOCK, Way.BY_TABLE])
@pytest.mark.parametrize("window", [None, 20])
def test_the_kernels_are_called_as_the_installed_torch_declares_them(way: Way, window: int | None) -> None:
    """On the meta device nothing is computed, but arguments and shapes are checked, and reading a number fails."""
    meta, half = torch.device("meta"), torch.bfloat16
    assert kernels.missing_for_tables() == []
    pool = torch.empty(9, SIZE, KEY_HEADS, WIDTH, dtype=half, device=meta)
    query = torch.empty(4, HEADS, WIDTH, dtype=half, device=meta)
    tables, lengths = torch.empty(4, 6, dtype=torch.int32, device=meta), torch.empty(4, dtype=torch.int64, device=meta)
    requests = Decoding(tables, lengths, size=SIZE, window=window)
    rule = Rule(window=window, sinks=torch.empty(HEADS, device=meta))
    out = decode(query, pool, pool, requests, way=way, rule=rule)
    assert (out.shape, out.dtype) == (query.shape, half)
    spans = Spans(lengths.int(), lengths.int(), lengths.int(), 3, 8)
    assert attend_prompts(Tokens(query, pool[0], pool[0]), spans, rule).shape == query.shape
