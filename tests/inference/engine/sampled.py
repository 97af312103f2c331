"""Rows of the sampler and what it chooses for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inference.engine.sampler import Choice, RowState, Sampler
from inference.types import Sampling

CPU = torch.device("cpu")
EOS = 2
DRAWS = 4000


@dataclass
class Allowed:
    """A grammar that always allows the same tokens."""

    tokens: Sequence[int]
    vocabulary: int
    packed: bool = False
    accepted: list[int] = field(default_factory=list)

    def mask(self) -> Tensor:
        if not self.packed:
            mask = torch.zeros(self.vocabulary, dtype=torch.bool)
            mask[list(self.tokens)] = True
            return mask
        words = [0] * math.ceil(self.vocabulary / 32)
        for token in self.tokens:
            words[token // 32] |= 1 << token % 32
        return torch.tensor([word - (1 << 32) * (word >> 31) for word in words], dtype=torch.int32)

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def row(
    sampling: Sampling, vocabulary: int, *, step: int = 0, prompt: Sequence[int] = (), resumed: Sequence[int] = ()
) -> RowState:
    state = RowState(
        sampling,
        prompt_ids=prompt,
        resume_ids=resumed,
        eos_ids=frozenset({EOS}),
        vocabulary=vocabulary,
        device=CPU,
    )
    state.sampled += step
    return state


def choose(logits: Tensor, sampling: Sampling, **state: Any) -> Choice:
    (choice,) = Sampler().choose(logits[None], [row(sampling, len(logits), **state)])
    return choice


def draws(logits: Tensor, sampling: Sampling, count: int = DRAWS) -> Counter[int | None]:
    rows = [row(sampling, len(logits), step=step) for step in range(count)]
    return Counter(choice.token for choice in Sampler().choose(logits.expand(count, -1), rows))


def gaussian(vocabulary: int, spread: float, seed: int, *, rough: bool = False) -> Tensor:
    """Logits of shape (vocabulary,); rough ones have few different values, as bfloat16 makes them."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * spread
    return logits.round(decimals=1) if rough else logits
