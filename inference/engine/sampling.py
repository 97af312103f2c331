"""Chooses the next token from the logits of one sequence.

The only randomness is one number per step, a hash of (seed, step). The same seed therefore gives the same text on any
device, and a generation that another worker takes over in the middle goes on as if nothing had happened.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from inference.types import Sampling

NUCLEUS_WIDTH = 1024  # a nucleus is nearly always this narrow; top-k of it costs a tenth of sorting the vocabulary


class NotFinite(ArithmeticError):
    """The model's logits hold NaN or infinity: its weights or its dtype are broken."""


def choose(logits: Tensor, sampling: Sampling, step: int) -> int:
    """The id of the next token. logits of shape (1, V), any float dtype; step counts the tokens sampled before it.

    Filters in the order of the reference implementation: temperature, top_k, then top_p within what is left. Raises
    NotFinite.
    """
    row = logits[0].float()
    peak, best = row.max(dim=0)
    if not torch.isfinite(peak):
        raise NotFinite("The model's logits are not finite.")
    if sampling.temperature == 0:
        return int(best)
    # Less the largest first: a tiny temperature then gives -inf and 0, never inf - inf.
    row = (row - peak) / sampling.temperature
    if sampling.top_k:
        values, ids = row.topk(min(sampling.top_k, len(row)))
        probabilities = _nucleus(values.double().softmax(dim=0), sampling.top_p)
    elif sampling.top_p < 1:
        probabilities, ids = _narrow(row, sampling.top_p)
    else:
        probabilities, ids = row.double().softmax(dim=0), None
    place = _draw(probabilities, uniform(sampling.seed, step))
    return place if ids is None else int(ids[place])


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the step."""
    digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)


def _narrow(row: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The nucleus of the whole distribution, looked for among the likeliest few before everything is sorted."""
    total = row.double().logsumexp(dim=0)
    for width in (NUCLEUS_WIDTH, len(row)):
        values, ids = row.topk(min(width, len(row)))
        probabilities = (values.double() - total).exp()
        if float(probabilities.sum()) >= top_p:
            break
    return _nucleus(probabilities, top_p), ids


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The shortest head of descending `probabilities` whose sum reaches top_p; at least one token."""
    before = probabilities.cumsum(dim=0) - probabilities
    return probabilities[: max(1, int((before < top_p).sum()))]


def _draw(probabilities: Tensor, point: float) -> int:
    """Where `point`, a number in [0, 1), falls in the cumulated probabilities, which need not sum to one."""
    cumulated = probabilities.cumsum(dim=0)
    place = int(torch.searchsorted(cumulated, cumulated[-1] * point, right=True))
    return min(place, len(probabilities) - 1)
