"""Steps in which every request decodes: passes of a few fixed shapes, so that a GPU can replay them as CUDA graphs.

A step is padded to the next rung of a ladder of batch sizes, and the block tables to the next power of two of columns.
Token ids, positions and slots are copied into tensors that stay where they are; everything else that the pass needs is
computed from them and the block tables on the device. So the pass asks the host for nothing, and what is captured once
can be replayed with other numbers. On a CPU, and where a capture fails, the same pass runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.engine.kernels import Way
from inference.engine.paged import PagedCache
from inference.engine.paged_attention import PagedPass
from inference.engine.penalties import to_device
from inference.engine.probing import read_packed

log = logging.getLogger("engine")

# Before a capture: libraries choose their kernels and take their work space in the first runs.
WARM_UPS = 2


class Token(NamedTuple):
    """The one token that a request reads: its id, its place in the request, and the request's slot."""

    token: int
    position: int
    slot: int


class Decoder:
    """Reads steps of one token a request. For the engine's thread alone."""

    def __init__(self, model: PreTrainedModel, cache: PagedCache, ways: Sequence[Way], *, slots: int) -> None:
        self._model = model
        self._cache = cache
        self._ways = ways
        self._rungs = rungs(slots)
        self._steps: dict[tuple[int, int], _Step] = {}
        (self._device, *others) = cache.devices
        self._captures = self._device.type == "cuda" and not others
        self._pool: Any = None  # the handle of the graphs' memory

    @torch.inference_mode()
    def prepare(self) -> None:
        """Capture the passes for short answers; those for longer ones are captured when they are first needed, which
        takes as long as a few steps. The largest first, as they share one pool of memory. Does nothing on a CPU."""
        if self._captures:
            for rows in reversed(self._rungs):
                self._step(rows, 1)

    def read(self, tokens: Sequence[Token]) -> Tensor:
        """Logits (len(tokens), V), good until the next call. Does not wait for the device."""
        rows = next(rung for rung in self._rungs if rung >= len(tokens))
        longest = max(token.position for token in tokens) // self._cache.block_tokens + 1
        step = self._step(rows, longest)
        self._cache.tables()
        return step.run(tokens)[: len(tokens)]

    def _step(self, rows: int, longest: int) -> _Step:
        by_table = all(way is Way.BY_TABLE for way in self._ways)
        blocks = self._cache.width if by_table else min(self._cache.width, 1 << (longest - 1).bit_length())
        if (rows, blocks) not in self._steps:
            step = _Step(self._model, self._cache, self._ways, rows=rows, blocks=blocks, device=self._device)
            if self._captures:
                self._captures = self._capture(step)
            self._steps[rows, blocks] = step
        return self._steps[rows, blocks]

    def _capture(self, step: _Step) -> bool:
        """Whether it succeeded. What cannot be captured once is not tried again: it would be for the same reason."""
        self._cache.tables()
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            step.capture(self._pool)
        except RuntimeError as error:
            log.warning("decoding goes on without CUDA graphs", extra={"reason": str(error)})
            return False
        return True


class _Step:
    """The pass of one shape: `rows` requests, `blocks` columns of the block tables."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache: PagedCache,
        ways: Sequence[Way],
        *,
        rows: int,
        blocks: int,
        device: torch.device,
    ) -> None:
        self._model = model
        self._cache = cache
        self._ways = ways
        self._rows = rows
        self._blocks = blocks
        self._padding = Token(0, 0, cache.pad_slot)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self._inputs = torch.tensor([self._padding] * rows, device=device).t().contiguous()  # (3, rows)

    def run(self, tokens: Sequence[Token]) -> Tensor:
        """Logits (rows, V), those of the padding behind the others."""
        padded = [*tokens, *[self._padding] * (self._rows - len(tokens))]
        self._inputs.copy_(to_device(torch.tensor(padded).t().contiguous(), self._inputs.device), non_blocking=True)
        if self._graph is None or self._logits is None:
            return self._read()
        with torch.cuda.device(self._inputs.device):
            self._graph.replay()
        return self._logits

    def capture(self, pool: Any) -> None:
        """Make run() a replay. The tokens that happen to be in the buffers are read, which does no harm: their keys and
        values are written where they belong."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._inputs.device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    self._read()
            torch.cuda.current_stream().wait_stream(aside)
            # Other threads of the process may use the device meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                logits = self._read()
        self._graph, self._logits = graph, logits

    def _read(self) -> Tensor:
        ids, positions, slots = self._inputs
        layout = PagedPass(
            self._cache,
            self._ways,
            positions=positions,
            slots=slots,
            singles=self._rows,
            blocks=self._blocks,
        )
        return read_packed(self._model, ids, layout, None)


def rungs(slots: int) -> list[int]:
    """The batch sizes of the passes: 1, 2, 4, … and `slots` itself."""
    return [*(1 << power for power in range((slots - 1).bit_length())), slots]
