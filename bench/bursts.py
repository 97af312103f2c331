"""Helper: the engine alone, asked for many answers at once.

A question is {"prompts", "max_tokens"}; the answer {"tokens", "seconds"} counts from the first token of any.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from bench.lines import answer, questions
from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel, load, set_threads
from inference.engine.prompts import build
from inference.types import Delta, Finished, Sampling, Turn


def main(folder: str, dtype: str, context_length: str, threads: str, slots: str) -> None:
    set_threads(int(threads))
    loaded = load(Path(folder), device="cpu", dtype=dtype, context_length=int(context_length))
    engine = Engine(loaded, slots=int(slots))
    answer("ready")
    for question in questions():
        answer(run(loaded, engine, **question))


def run(loaded: LoadedModel, engine: Engine, *, prompts: Sequence[str], max_tokens: int) -> dict[str, Any]:
    handles = []
    for prompt in prompts:
        built = build(loaded, [Turn("user", prompt)], max_tokens)
        sampling = Sampling(temperature=0.0, max_tokens=built.max_tokens)
        # An owner each: nothing comes from the prefix cache.
        handles.append(engine.submit(built.ids, sampling, owner=uuid.uuid4().hex))
    tokens, first = 0, 0.0
    left = True
    while left:
        left = engine.step()
        for handle in handles:
            while event := handle.get(timeout=0):
                if isinstance(event, Delta):
                    tokens += len(event.token_ids)
                    first = first or monotonic()
                elif isinstance(event, Finished) and event.error:
                    raise RuntimeError(event.error)
    return {"tokens": tokens, "seconds": monotonic() - first}
