"""Helper: the engine alone, called in a loop, without the product around it.

A question is {"prompt", "max_tokens"}; the answer tells times in seconds since the prompt's text was in hand.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

from bench.lines import answer, questions
from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel, load, set_threads
from inference.engine.prompts import build
from inference.types import Delta, Sampling, Turn


def main(folder: str, dtype: str, context_length: str, threads: str) -> None:
    set_threads(int(threads))
    loaded = load(Path(folder), device="cpu", dtype=dtype, context_length=int(context_length))
    engine = Engine(loaded, slots=1)
    answer("ready")
    for question in questions():
        answer(run(loaded, engine, **question))


def run(loaded: LoadedModel, engine: Engine, *, prompt: str, max_tokens: int) -> dict[str, Any]:
    started = monotonic()
    built = build(loaded, [Turn("user", prompt)], max_tokens)
    prompt_s = monotonic() - started
    handle = engine.submit(built.ids, Sampling(temperature=0.0, max_tokens=built.max_tokens))
    tokens, seen = 0, []
    left = True
    while left:
        left = engine.step()
        while event := handle.get(timeout=0):
            if isinstance(event, Delta):
                tokens += len(event.token_ids)
                seen += [monotonic() - started] if event.text else []
    return {"prompt_s": prompt_s, "first_s": seen[0], "last_s": seen[-1], "tokens": tokens}
