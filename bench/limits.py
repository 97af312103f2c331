"""What this machine can do at most: reading memory and multiplying. The same yardstick for all parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter

import torch

READ_NUMBERS = 1 << 27  # 512 MB: more than any cache holds
MATRIX = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes read, and operations of a matrix product in bfloat16 and float32, each a second."""

    bytes_per_s: float
    bfloat16_per_s: float
    float32_per_s: float


def measure(repetitions: int = 9) -> Limits:
    """With torch's present number of threads. Blocks for about half a second."""
    numbers = torch.ones(READ_NUMBERS)
    square = torch.randn(MATRIX, MATRIX)
    calls: list[Callable[[], object]] = [numbers.sum]
    for dtype in (torch.bfloat16, torch.float32):
        factor = square.to(dtype)
        calls.append(partial(torch.mm, factor, factor))
    read_s, *product_s = interleaved(calls, repetitions)
    return Limits(4 * READ_NUMBERS / read_s, *(2 * MATRIX**3 / seconds for seconds in product_s))


def interleaved(calls: Sequence[Callable[[], object]], repetitions: int) -> list[float]:
    """The median seconds of each call; they take turns, and the first round is not counted."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(repetitions):
        for own, call in zip(times, calls, strict=True):
            began = perf_counter()
            call()
            own.append(perf_counter() - began)
    return [median(own) for own in times]
