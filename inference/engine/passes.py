"""Forward passes: how the tokens of a step reach the model, and where their keys and values stay.

Packed reads all requests of a step in one pass, over the slot cache or the paged one. Separate gives each request a
pass and a cache of transformers' own: for architectures that cannot be packed, since some layer carries a state of its
own or positions depend on the longest request of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from inference.engine.attention import Segment
from inference.engine.decoding import Token
from inference.engine.loading import LoadedModel
from inference.engine.penalties import upload
from inference.engine.places import InBlocks, InSlots, Place, budget_of
from inference.engine.probing import NotPackable, read_packed, shapes_of
from inference.engine.scheduler import Chunk, Memory
from inference.engine.sequence import Row

log = logging.getLogger("engine")


class CacheKind(StrEnum):
    """Where keys and values lie. AUTO: in slots on a CPU, whose kernels want them in one row; in blocks on a GPU."""

    AUTO = "auto"
    SLOTS = "slots"
    PAGED = "paged"


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

    def clear(self) -> None:
        """Forget and zero what everybody has read, running requests too, which have to be admitted again."""

    @property
    def kv_share(self) -> float:
        """How much of the room for keys and values running requests hold, from 0 to 1."""


def passes(
    loaded: LoadedModel, *, slots: int, kv_tokens: int | None = None, cache: CacheKind = CacheKind.AUTO
) -> Passes:
    """Packed where the model can be, Separate where not, which the log says. Blocks for three small passes, on a GPU
    for trials and captures as well, some seconds.

    kv_tokens: tokens whose keys and values may be held in all; None takes a share of the free memory.
    """
    try:
        shapes = shapes_of(loaded.model, device=loaded.device, dtype=loaded.dtype)
    except NotPackable as error:
        log.warning("requests are read one by one", extra={"reason": str(error)})
        return Separate(loaded)
    if cache is CacheKind.AUTO:
        cache = CacheKind.SLOTS if loaded.device.type == "cpu" else CacheKind.PAGED
    budget = kv_tokens or budget_of(loaded, shapes, slots)
    if cache is CacheKind.SLOTS:
        return Packed(loaded, InSlots(loaded, shapes, slots=slots, budget_tokens=budget))
    return Packed(loaded, InBlocks(loaded, shapes, slots=slots, budget_tokens=budget))


class Packed:
    """All requests of a step in one pass."""

    together = True

    def __init__(self, loaded: LoadedModel, place: Place) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._place = place
        self._cache = place.cache
        # Where the last layer gives its output: only a CPU's indices are good for every device.
        spread = len(getattr(loaded.model, "hf_device_map", None) or [0]) > 1
        self._last_device = torch.device("cpu") if spread else loaded.device

    def admit(self, job: Row) -> int | None:
        return self._cache.admit(job)

    def grow(self, job: Row, tokens: int) -> bool:
        return self._cache.grow(job, tokens)

    def release(self, job: Row) -> None:
        self._cache.release(job)

    def spoil(self, row: Row) -> None:
        self._cache.spoil(row)

    def clear(self) -> None:
        self._cache.clear()

    def keep(self, chunks: Sequence[Chunk[Row]]) -> None:
        for chunk in chunks:
            self._cache.commit(chunk.job, chunk.start + chunk.count)

    @property
    def kv_share(self) -> float:
        return self._cache.held_tokens / self._cache.budget_tokens

    def read(self, chunks: Sequence[Chunk[Row]]) -> Tensor:
        if all(chunk.count == 1 and chunk.samples for chunk in chunks):
            tokens = [
                Token(chunk.job.ids[chunk.start], chunk.start, self._cache.slot_of(chunk.job)) for chunk in chunks
            ]
            if (logits := self._place.decode(tokens)) is not None:
                return logits
        slots = {chunk: self._cache.slot_of(chunk.job) for chunk in chunks}
        ordered = sorted(chunks, key=lambda chunk: (chunk.count > 1, slots[chunk]))
        layout = self._place.layout([Segment(slots[chunk], chunk.start, chunk.count) for chunk in ordered])
        ids: list[int] = []
        last: dict[Chunk[Row], int] = {}
        for chunk in ordered:
            ids += chunk.job.ids[chunk.start : chunk.start + chunk.count]
            last[chunk] = len(ids) - 1
        wanted = [last[chunk] for chunk in chunks if chunk.samples]
        # Not every linear layer takes no rows at all: a step that samples nothing reads one line too many.
        places = upload(wanted or [0], torch.int64, self._last_device)
        return read_packed(self._model, upload(ids, torch.int64, self._device), layout, places)[: len(wanted)]


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

    def clear(self) -> None:
        self._caches.clear()

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
