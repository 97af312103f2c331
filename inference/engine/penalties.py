"""What requests change in their logits before anything is chosen: penalties, biases, bans, a grammar's mask.

All of it is kept where the model runs, and only requests that change something have any of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from inference.types import Sampling


class Matcher(Protocol):
    """One answer's way through its grammar: says which tokens may come next."""

    def mask(self) -> Tensor:
        """The allowed tokens: bool of shape (V,), or a bit each, the lowest first, in int32 (ceil(V / 32),)."""

    def accept(self, token: int) -> None:
        """Go on to what follows `token`."""


class Penalties:
    """The tokens that one request has seen, and what each costs now.

    ids: (N,) int64, no two the same. subtracted: (N,) float32, what presence and frequency take away. divisor: (1,)
    float32, the repetition penalty.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        prompt_ids: Sequence[int],
        resume_ids: Sequence[int],
        vocabulary: int,
        device: torch.device,
    ) -> None:
        self._sampling = sampling
        self._counts = dict.fromkeys(prompt_ids, 0) if sampling.repetition_penalty != 1 else {}
        for token in resume_ids:
            self._counts[token] = self._counts.get(token, 0) + 1
        self._places = {token: place for place, token in enumerate(self._counts)}
        room = min(vocabulary, len(self._counts) + sampling.max_tokens)
        self._ids = torch.zeros(room, dtype=torch.int64, device=device)
        self._subtracted = torch.zeros(room, device=device)
        self._ids[: len(self._counts)] = upload([*self._counts], torch.int64, device)
        self._subtracted[: len(self._counts)] = upload(map(self._cost, self._counts), torch.float32, device)
        self.divisor = upload([sampling.repetition_penalty], torch.float32, device)

    @staticmethod
    def wanted(sampling: Sampling) -> bool:
        neutral = (1.0, 0.0, 0.0)
        return (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != neutral

    @property
    def ids(self) -> Tensor:
        return self._ids[: len(self._counts)]

    @property
    def subtracted(self) -> Tensor:
        return self._subtracted[: len(self._counts)]

    def take(self, token: int) -> None:
        self._counts[token] = self._counts.get(token, 0) + 1
        if token not in self._places:
            self._places[token] = len(self._places)
            self._ids[self._places[token]] = token
        self._subtracted[self._places[token]] = self._cost(token)

    def _cost(self, token: int) -> float:
        count = self._counts[token]
        return self._sampling.presence_penalty * (count > 0) + self._sampling.frequency_penalty * count


class Bias:
    """What one request adds to single logits: ids (N,) int64, added (N,) float32."""

    def __init__(self, pairs: Iterable[tuple[int, float]], device: torch.device) -> None:
        merged = dict(pairs)
        self.ids = upload([*merged], torch.int64, device)
        self.added = upload(merged.values(), torch.float32, device)


def penalise(logits: Tensor, requests: Sequence[tuple[int, Penalties]]) -> None:
    """Change logits (S, V) float32 in place; each request comes with its row."""
    if not requests:
        return
    places = _places(logits, [(row, penalties.ids) for row, penalties in requests])
    divisors = torch.cat([penalties.divisor.expand(len(penalties.ids)) for _, penalties in requests])
    subtracted = torch.cat([penalties.subtracted for _, penalties in requests])
    flat = logits.view(-1)
    seen = flat[places]
    flat[places] = torch.where(seen > 0, seen / divisors, seen * divisors) - subtracted


def bias(logits: Tensor, requests: Sequence[tuple[int, Bias]]) -> None:
    """Change logits (S, V) float32 in place; each request comes with its row."""
    if requests:
        places = _places(logits, [(row, biased.ids) for row, biased in requests])
        flat = logits.view(-1)
        flat[places] = flat[places] + torch.cat([biased.added for _, biased in requests])


def ban(logits: Tensor, banned: Sequence[tuple[int, Tensor]]) -> None:
    """Forbid tokens in logits (S, V), in place; the ids, (N,) int64, come with their row."""
    if banned:
        logits.view(-1).index_fill_(0, _places(logits, banned), -torch.inf)


def restrict(logits: Tensor, matchers: Sequence[tuple[int, Matcher]]) -> None:
    """Forbid in logits (S, V), in place, what the grammar of a row does not allow."""
    for row, matcher in matchers:
        mask = to_device(matcher.mask(), logits.device)
        allowed = mask if mask.dtype == torch.bool else _unpacked(mask, logits.shape[1])
        logits[row].masked_fill_(~allowed, -torch.inf)


def upload(values: Iterable[float] | Iterable[Sequence[float]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor (N,) or (N, M) on the device, without waiting for what the device is doing."""
    return to_device(torch.tensor([*values], dtype=dtype), device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Without waiting: a copy from memory that is not pinned would wait for the forward pass."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _places(logits: Tensor, ids: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Where the ids of each row lie in the flat logits."""
    return torch.cat([row_ids + row * logits.shape[1] for row, row_ids in ids])


def _unpacked(words: Tensor, vocabulary: int) -> Tensor:
    bits = words[:, None] >> torch.arange(32, dtype=torch.int32, device=words.device) & 1
    return bits.flatten()[:vocabulary].bool()
