"""Forward passes: how the tokens of a step reach the model, and where their keys and values stay.

Packed reads all requests of a step in one pass over the slot cache. Separate gives each request a pass and a cache of
transformers' own: for architectures that cannot be packed, since some layer carries a state of its own or positions
depend on the longest request of a batch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from inference.engine import attention
from inference.engine.attention import Segment
from inference.engine.loading import LoadedModel
from inference.engine.scheduler import Chunk, Memory
from inference.engine.sequence import Row
from inference.engine.slots import LayerShape, SlotCache

log = logging.getLogger("engine")

# Of the memory that is free once the weights are loaded, what keys and values may take.
KV_SHARE = {"cpu": 0.5, "cuda": 0.9}
# Where the lengths of a batch change what a position means, a neighbour would change the answer.
SHARED_POSITIONS = frozenset({"dynamic", "longrope"})
PROBE_TOKENS = 7
PROBE_DIFFERENCE = 0.3  # of the logits' norm; one that sees another request's tokens differs by about its whole norm


class NotPackable(Exception):
    """The model's requests have to be read one by one; the message says why."""


class Passes(Memory[Row], Protocol):
    """What the engine needs: the scheduler's Memory, and the pass itself.

    together: whether read() takes the chunks of several requests. What it has read is in the cache before keep(), and
    may be read again where the pass fails only if it is true.
    """

    together: bool

    def read(self, chunks: Sequence[Chunk[Row]]) -> Tensor:
        """Read the chunks' tokens. Returns the logits (N, V) of the chunks that sample, in their order."""

    def keep(self, chunks: Sequence[Chunk[Row]]) -> None:
        """The pass has succeeded: what was read may be used again."""

    def spoil(self, row: Row) -> None:
        """What the row has read is not to be used by anyone."""

    @property
    def kv_share(self) -> float:
        """How much of the room for keys and values running requests hold, from 0 to 1."""


def passes(loaded: LoadedModel, *, slots: int, kv_tokens: int | None = None) -> Passes:
    """Packed where the model can be, Separate where not, which the log says. Blocks for three small passes.

    kv_tokens: tokens whose keys and values may be held in all; None takes a share of the free memory.
    """
    try:
        return Packed(loaded, shapes_of(loaded), slots=slots, kv_tokens=kv_tokens)
    except NotPackable as error:
        log.warning("requests are read one by one", extra={"reason": str(error)})
        return Separate(loaded)


class Packed:
    """All requests of a step in one pass."""

    together = True

    def __init__(
        self, loaded: LoadedModel, shapes: Sequence[LayerShape], *, slots: int, kv_tokens: int | None = None
    ) -> None:
        self._model = loaded.model
        self._device, self._dtype = loaded.device, loaded.dtype
        token_bytes = sum(shape.bytes(loaded.dtype) for shape in shapes)
        budget = kv_tokens or int(KV_SHARE[loaded.device.type] * _free_bytes(loaded.device)) // token_bytes
        # A GPU's memory is taken at once, and not when it is first written.
        if loaded.device.type == "cuda":
            slots = max(1, min(slots, budget // loaded.context_length))
        # One more than the context: the scheduler asks for a token's room before it knows that the answer ends.
        self._cache = SlotCache(
            shapes, slots=slots, length=loaded.context_length + 1, budget_tokens=budget, dtype=loaded.dtype
        )

    def admit(self, job: Row) -> int | None:
        return self._cache.admit(job)

    def grow(self, job: Row, tokens: int) -> bool:
        return self._cache.grow(job, tokens)

    def release(self, job: Row) -> None:
        self._cache.release(job)

    def spoil(self, row: Row) -> None:
        self._cache.spoil(row)

    def keep(self, chunks: Sequence[Chunk[Row]]) -> None:
        for chunk in chunks:
            self._cache.commit(chunk.job, chunk.start + chunk.count)

    @property
    def kv_share(self) -> float:
        return self._cache.held_tokens / self._cache.budget_tokens

    def read(self, chunks: Sequence[Chunk[Row]]) -> Tensor:
        slots = {chunk: self._cache.slot_of(chunk.job) for chunk in chunks}
        ordered = sorted(chunks, key=lambda chunk: (chunk.count > 1, slots[chunk]))
        segments = [Segment(slots[chunk], chunk.start, chunk.count) for chunk in ordered]
        ids: list[int] = []
        last: dict[Chunk[Row], int] = {}
        for chunk in ordered:
            ids += chunk.job.ids[chunk.start : chunk.start + chunk.count]
            last[chunk] = len(ids) - 1
        wanted = [last[chunk] for chunk in chunks if chunk.samples]
        packed = attention.Packed(self._cache, segments, self._device, self._dtype)
        # Not every linear layer takes no rows at all: a step that samples nothing reads one line too many.
        logits = _read_packed(self._model, ids, packed, wanted or [0])
        return logits[: len(wanted)]


class Separate:
    """Each request in a pass of its own, with a cache of its own, which grows with each token that is read."""

    together = False
    kv_share = 0.0

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._caches: dict[Row, DynamicCache] = {}

    def admit(self, job: Row) -> int | None:
        self._caches[job] = DynamicCache(config=self._loaded.model.config)
        return 0

    def grow(self, job: Row, tokens: int) -> bool:
        return tokens <= self._loaded.context_length + 1

    def release(self, job: Row) -> None:
        del self._caches[job]

    def spoil(self, row: Row) -> None:
        """Nobody else reads a request's cache."""

    def keep(self, chunks: Sequence[Chunk[Row]]) -> None:
        """A cache grows as it is read."""

    def read(self, chunks: Sequence[Chunk[Row]]) -> Tensor:
        (chunk,) = chunks
        output = self._loaded.model(
            input_ids=torch.tensor(
                [chunk.job.ids[chunk.start : chunk.start + chunk.count]], device=self._loaded.device
            ),
            past_key_values=self._caches[chunk.job],
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[0]
        return logits if chunk.samples else logits[:0]


@torch.inference_mode()
def shapes_of(loaded: LoadedModel) -> list[LayerShape]:
    """What each layer's attention keeps, found by reading two short prompts in one pass. Raises NotPackable.

    Both have to come out as they do alone, so that what this module does not know about an architecture shows here.
    """
    config = loaded.model.config.get_text_config()
    if kinds := SHARED_POSITIONS & _rope_types(config):
        raise NotPackable(f"its positions ({', '.join(kinds)}) depend on the longest request")
    count = min(PROBE_TOKENS, loaded.context_length)
    prompts = [[(7 * place + 11 * number + 3) % config.vocab_size for place in range(count)] for number in (0, 1)]
    alone = [loaded.model(torch.tensor([ids], device=loaded.device), use_cache=False).logits[0, -1] for ids in prompts]
    probe = _Probe()
    segments = [Segment(number, 0, count) for number in (0, 1)]
    packed = attention.Packed(probe, segments, loaded.device, loaded.dtype)
    ids = [*prompts[0], *prompts[1]]
    try:
        together = _read_packed(loaded.model, ids, packed, [count - 1, 2 * count - 1])
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise NotPackable(f"its code does not take a packed pass: {error}") from error
    if sorted(probe.shapes) != list(range(config.num_hidden_layers)):
        raise NotPackable("some of its layers carry a state that is not keys and values")
    for one, other in zip(alone, together, strict=True):
        if not (one - other).float().norm() <= PROBE_DIFFERENCE * one.float().norm():
            raise NotPackable("two requests in one pass change each other")
    return [probe.shapes[index] for index in range(config.num_hidden_layers)]


class _Probe:
    """Storage for one small pass, which notes what is to be stored."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        heads = key.shape[1]
        self.shapes[index] = LayerShape(heads, key.shape[-1], value.shape[-1], key.device)
        keys, values = (
            torch.zeros(2, PROBE_TOKENS, heads, part.shape[-1], dtype=part.dtype, device=part.device)
            for part in (key, value)
        )
        return keys, values


def _read_packed(model: PreTrainedModel, ids: list[int], packed: attention.Packed, wanted: list[int]) -> Tensor:
    """Logits (len(wanted), V) of the tokens at the places `wanted`."""
    with _packed_attention(model):
        output = model(
            input_ids=torch.tensor([ids], device=packed.device),
            position_ids=packed.positions,
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, device=packed.device),
            packed=packed,
        )
    logits: Tensor = output.logits[0]
    return logits


@contextmanager
def _packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Each layer asks the configuration which attention to call; other callers of the model find theirs unchanged."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = attention.IMPLEMENTATION
    try:
        yield
    finally:
        config._attn_implementation = before


def _rope_types(config: object) -> set[str]:
    """The kinds of rotary embedding, one for all layers or one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [part for part in parameters.values() if isinstance(part, dict)] or [parameters]
    return {str(part.get("rope_type", "default")) for part in nested}


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
