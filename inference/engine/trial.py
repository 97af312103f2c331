"""Which of the installed kernels lets a layer read the block pool: tried on small random tensors, and compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch

from inference.engine import kernels
from inference.engine.attention import Rule, Segment, attend_chunk, chunk_mask
from inference.engine.kernels import Way
from inference.engine.paged_attention import Decoding, Tokens, attend_prompts, decode, spans_of
from inference.engine.slots import LayerShape

log = logging.getLogger("engine")

# Of numbers of about 1 in bfloat16; what is read from a wrong place differs by about 1.
DIFFERENCE = 0.05


def choose(shapes: Sequence[LayerShape], *, block_tokens: int, dtype: torch.dtype) -> list[Way]:
    """How each layer is to read the pool. Waits for the device; the log says what was found."""
    found: dict[LayerShape, Way] = {}
    for shape in shapes:
        if shape not in found:
            found[shape] = _choose(shape, block_tokens, dtype)
    return [found[shape] for shape in shapes]


def _choose(shape: LayerShape, block_tokens: int, dtype: torch.dtype) -> Way:
    named = f"{shape.query_heads} heads over {shape.heads} of width {shape.key_width}"
    if not kernels.fits(shape.key_width, shape.value_width, dtype, shape.device):
        if shape.device.type == "cuda":
            log.warning("no flash attention for a layer", extra={"reason": f"{named}, {shape.value_width}, {dtype}"})
        return Way.GATHERED
    if missing := kernels.missing_for_tables():
        log.info("attention without block tables", extra={"reason": f"torch lacks {', '.join(missing)}"})
    trial = _Trial(shape, block_tokens, dtype)
    for way in (Way.BY_BLOCK,) if missing else (Way.BY_TABLE, Way.BY_BLOCK):
        try:
            difference = trial.difference(way)
        # What a build does not have is told by errors of any of these kinds.
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            log.info("a way of attention fails", extra={"reason": f"{way.value}, {named}: {error}"})
            continue
        if difference <= DIFFERENCE:
            log.info("attention", extra={"reason": f"{way.value}, {named}"})
            return way
        log.warning("a way of attention is wrong", extra={"reason": f"{way.value}, {named}: by {difference}"})
    log.warning("keys are gathered for attention, which is slow", extra={"reason": named})
    return Way.GATHERED


class _Trial:
    """Three requests in scattered blocks, a prompt, and what plain attention makes of them."""

    LENGTHS = (1, 300, 700)
    PROMPT = Segment(slot=0, start=100, count=40)
    RULES = (Rule(), Rule(window=90))

    def __init__(self, shape: LayerShape, block_tokens: int, dtype: torch.dtype) -> None:
        chance, device = torch.Generator().manual_seed(1), shape.device
        each = math.ceil(max(self.LENGTHS) / block_tokens)
        order = 1 + torch.randperm(3 * each, generator=chance)
        self._tables = order.view(3, each).to(device, torch.int32)
        self._lengths = torch.tensor(self.LENGTHS, device=device)
        self._size = block_tokens
        size = (3 * each + 1, block_tokens, shape.heads, shape.key_width)
        self._keys, self._values = (torch.randn(size, generator=chance).to(device, dtype) for _ in range(2))
        # Heads first in memory, as modelling code leaves them.
        asked = torch.randn(shape.query_heads, self.PROMPT.count, shape.key_width, generator=chance)
        self._query = asked.to(device, dtype).transpose(0, 1)
        self._sinks = torch.randn(shape.query_heads, generator=chance).to(device)

    def difference(self, way: Way) -> float:
        """The largest, with and without a window and sinks."""
        rules = [*self.RULES, *(rule._replace(sinks=self._sinks) for rule in self.RULES)]
        return max(max(self._decoding(way, rule), self._prompt(rule)) for rule in rules)

    def _decoding(self, way: Way, rule: Rule) -> float:
        requests = Decoding(self._tables, self._lengths, size=self._size, window=rule.window)
        query = self._query[: len(self.LENGTHS)]
        out, wanted = (
            decode(query, self._keys, self._values, requests, way=each, rule=rule) for each in (way, Way.GATHERED)
        )
        return _largest(out - wanted)

    def _prompt(self, rule: Rule) -> float:
        length = self.PROMPT.start + self.PROMPT.count
        keys, values = (pool.flatten(0, 1)[:length] for pool in (self._keys, self._values))
        spans = spans_of([self.PROMPT.count], [length], keys.device)
        out = attend_prompts(Tokens(self._query, keys, values), spans, rule)
        low = self.PROMPT.low(rule.window)
        mask = chunk_mask(self.PROMPT, rule.window, dtype=keys.dtype, device=keys.device)
        return _largest(out - attend_chunk(self._query, keys[low:], values[low:], mask, rule))


def _largest(difference: torch.Tensor) -> float:
    # Not a number is larger than any.
    largest = float(difference.float().abs().max())
    return largest if math.isfinite(largest) else math.inf
