"""The likeliest tokens of each row in order, found without sorting the vocabulary, and the draw among them.

Invariants: the order is the same on every device and in every batch (by logit, equal ones by id), and a row's token
depends on nothing but its own logits and filters. So a head says how many of its tokens are certain, and draw() says
whether they were enough; who is told no asks sorted_row(), whose head always is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

_LOW = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Filters:
    """The parameters of S rows, each of shape (S, 1): float64, but top_k, which is int64.

    top_k is the vocabulary's size and top_p infinity where they are off. point, in [0, 1), is the row's random number.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    point: Tensor

    def row(self, n: int) -> Filters:
        here = slice(n, n + 1)
        return Filters(self.temperature[here], self.top_k[here], self.top_p[here], self.min_p[here], self.point[here])


@dataclass(frozen=True, slots=True)
class Head:
    """The W likeliest tokens of S rows, likeliest first.

    gaps: (S, W) float32, how far each lies below its row's largest logit. ids: (S, W) int64. known: (S, W) bool, True
    for a head of those whose place is certain. whole: (S, 1) bool, no token beyond the known ones has any probability.
    peaks: (S, 1) float32, the largest logit. All of it is meaningless, but in range, where a peak is not finite.
    """

    gaps: Tensor
    ids: Tensor
    known: Tensor
    whole: Tensor
    peaks: Tensor


def likeliest(logits: Tensor, width: int) -> Head:
    """The heads of logits (S, V), at most `width` tokens each. Fewer are known where equal logits are many."""
    values, ids, floors = _candidates(logits, width)
    peaks = values.amax(-1, keepdim=True)
    gaps = (peaks - values).abs()  # without the sign of -0.0, so that their bits are in order as integers
    keys = gaps.view(torch.int32).long() << 32 | ids
    keys = keys.topk(min(width, keys.shape[1]), largest=False).values
    gaps, ids = (keys >> 32).int().view(torch.float32), keys & _LOW
    limits = peaks - floors
    exhausted = (gaps[:, -1:] == torch.inf) | (ids.shape[1] == logits.shape[1])
    return Head(gaps=gaps, ids=ids, known=gaps < limits, whole=(limits == torch.inf) & exhausted, peaks=peaks)


def sorted_row(logits: Tensor, limit: Tensor | None = None) -> Head:
    """The head of one row, logits (V,), with every token whose gap is at most `limit`. Waits for the device.

    0.3 ms for 49,152 tokens on a CPU.
    """
    row = logits.float()
    peak = row.amax()
    gaps = (peak - row).abs_()
    # Not "<=": NaN would leave nothing to draw from, and such a row is told by its peak.
    ids = torch.arange(len(gaps), device=gaps.device) if limit is None else (~(gaps > limit)).nonzero()[:, 0]
    # In one dimension, integers are sorted by radix: a tenth of what floats take.
    bits, order = torch.sort(gaps[ids].view(torch.int32), stable=True)
    gaps = bits.view(torch.float32)[None]
    whole = torch.ones((1, 1), dtype=torch.bool, device=gaps.device)
    return Head(gaps=gaps, ids=ids[order][None], known=gaps < torch.inf, whole=whole, peaks=peak.reshape(1, 1))


def draw(head: Head, filters: Filters, totals: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One token a row, (S,) int64, and whether the head was enough for it to be exact, (S,) bool.

    top_k, then top_p within what is left, then min_p. totals, (S, 1) float64, are the masses that top_p is a share
    of where there is no top_k, in units of the likeliest token's probability (see masses()).
    """
    width = head.ids.shape[1]
    weights = (head.gaps.double() / -filters.temperature).exp().where(head.known, 0.0)
    cumulated = weights.cumsum(-1)
    known = head.known.sum(-1, keepdim=True)
    sure = filters.top_p == torch.inf if totals is None else torch.ones_like(head.whole)
    if totals is None:
        totals = cumulated.gather(1, filters.top_k.clamp(max=width) - 1)
    within = torch.arange(width, device=weights.device) < filters.top_k
    needed = cumulated - weights < filters.top_p * totals
    likely = (weights >= filters.min_p) & head.known
    kept = (within & needed & likely).sum(-1, keepdim=True).clamp(min=1)
    last = cumulated.gather(1, kept - 1)
    place = (cumulated <= _below(last * filters.point, last)).sum(-1, keepdim=True).clamp(max=width - 1)
    reached = (cumulated[:, -1:] >= filters.top_p * totals) | (likely.sum(-1, keepdim=True) < known)
    enough = head.whole | (known >= filters.top_k) | (sure & reached)
    return head.ids.gather(1, place)[:, 0], enough[:, 0]


def draw_from_all(logits: Tensor, filters: Filters) -> tuple[Tensor, Tensor]:
    """One token a row, (S,) int64, from the whole distribution of logits (S, V), in the order of their ids.

    And the peaks, (S,) float32.
    """
    peaks = logits.amax(-1, keepdim=True).float()
    tokens = []
    for probabilities, points in zip(
        _probabilities(logits, peaks, filters.temperature), blocks(filters.point), strict=True
    ):
        cumulated = probabilities.cumsum(-1, dtype=torch.float64)
        last = cumulated[:, -1:].contiguous()
        tokens.append(torch.searchsorted(cumulated, _below(last * points, last), right=True))
    return torch.cat(tokens)[:, 0].clamp(max=logits.shape[1] - 1), peaks[:, 0]


def masses(logits: Tensor, peaks: Tensor, temperature: Tensor) -> Tensor:
    """How many times the likeliest token's probability all of logits (S, V) sum to; (S, 1) float64, exact to 1e-7."""
    heights = [block.amax(-1, keepdim=True) for block in _probabilities(logits, peaks, temperature)]
    return 1 / torch.cat(heights).double()


def blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """A tensor in blocks of a few rows, for work that takes several passes over each: 0.8 MB stay in a CPU's cache."""
    return torch.split(tensor, 4 if tensor.device.type == "cpu" else len(tensor))


def _probabilities(logits: Tensor, peaks: Tensor, temperature: Tensor) -> Iterator[Tensor]:
    """The probabilities of logits (S, V), float32, in blocks()."""
    for block, peak, warmth in zip(blocks(logits), blocks(peaks), blocks(-temperature.float()), strict=True):
        # softmax reduces each row in the same order whatever the batch; a sum of one row is split among the threads.
        yield (peak - block).div_(warmth).softmax(-1)


def _below(targets: Tensor, ends: Tensor) -> Tensor:
    """Targets that rounding has not lifted to the end of the cumulated probabilities, where nothing is left."""
    return targets.minimum(torch.nextafter(ends, torch.zeros_like(ends)))


def _candidates(logits: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values (S, C) float32 and ids (S, C) of some tokens, among them all whose logit is above the floor (S, 1).

    The vocabulary is cut into columns of tokens that lie far apart. Only the `width` columns with the largest maxima
    are looked into, and the least of these maxima is the floor: no other column holds anything above it.
    """
    rows, vocabulary = logits.shape
    depth = isqrt(vocabulary // width) or 1  # as many columns as candidates: the least work for both searches
    columns = vocabulary // depth
    every = torch.arange(vocabulary, device=logits.device)
    if columns <= width:
        return logits.float(), every.expand(rows, -1), logits.new_full((rows, 1), -torch.inf, dtype=torch.float32)
    paged = columns * depth
    maxima = logits[:, :paged].view(rows, depth, columns).amax(1)
    best, picked = maxima.float().topk(width, sorted=False)
    ids = (picked[:, None] + every[:paged:columns, None]).flatten(1)
    ids = torch.cat((ids, every[paged:].expand(rows, -1)), dim=1)
    return logits.gather(1, ids).float(), ids, best.amin(-1, keepdim=True)
