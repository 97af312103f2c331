"""Helper: the engine alone, asked for many answers at once.

A question is {"prompts", "max_tokens", "arrivals_s"}: the seconds after which each comes, in order. The answer
{"tokens", "seconds"} counts from the first token of any.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from bench.lines import answer, questions
from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel, load, set_threads
from inference.engine.prompts import build
from inference.engine.requests import Handle
from inference.types import Delta, Finished, Sampling, Turn


def main(folder: str, dtype: str, context_length: str, threads: str, slots: str) -> None:
    set_threads(int(threads))
    loaded = load(Path(folder), device="cpu", dtype=dtype, context_length=int(context_length))
    engine = Engine(loaded, slots=int(slots))
    answer("ready")
    for question in questions():
        answer(run(loaded, engine, **question))


def run(
    loaded: LoadedModel, engine: Engine, *, prompts: Sequence[str], max_tokens: int, arrivals_s: Sequence[float]
) -> dict[str, Any]:
    built = [build(loaded, [Turn("user", prompt)], max_tokens) for prompt in prompts]
    due = deque(zip(arrivals_s, built, strict=True))
    handles: list[Handle] = []
    tokens, first, began = 0, 0.0, monotonic()
    left = False
    while due or left:
        while due and due[0][0] <= monotonic() - began:
            _, prompt = due.popleft()
            sampling = Sampling(temperature=0.0, max_tokens=prompt.max_tokens)
            # An owner each: nothing comes from the prefix cache.
            handles.append(engine.submit(prompt.ids, sampling, owner=uuid.uuid4().hex))
        left = engine.step()
        for handle in handles:
            while event := handle.get(timeout=0):
                if isinstance(event, Delta):
                    tokens += len(event.token_ids)
                    first = first or monotonic()
                elif isinstance(event, Finished) and event.error:
                    raise RuntimeError(event.error)
    return {"tokens": tokens, "seconds": monotonic() - first}
