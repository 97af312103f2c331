"""Helper: single latencies of the engine, one question each.

"load": answered before any question, with the seconds from the process's start to the first token of a first answer.
"turn": a second turn on a long history, with and without the prefix cache. "arrival": streams that decode while a long
prompt arrives. "sampler": the sampler's step for many rows. Each answers {"…_ms" or "…_s": values}.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, time

import psutil
import torch

from bench import report
from bench.engine_ours import prompts_of
from bench.lines import answer, questions
from inference.engine.engine import Engine
from inference.engine.loading import load, set_threads
from inference.engine.requests import Handle
from inference.engine.sampler import RowState, Sampler
from inference.types import Delta, Sampling

HISTORY_TOKENS = 2000
NEW_TURN_TOKENS = 20
STREAMS = 8
STREAM_TOKENS = 400
SAMPLER_ROWS = 32
SAMPLER_STEPS = 40


def main(folder: str, threads: str) -> None:
    set_threads(int(threads))
    loaded = replace(load(Path(folder), device="cpu", dtype="bfloat16"), eos_ids=frozenset())
    engine = Engine(loaded, slots=STREAMS + 2)
    first_token_s(engine, [1, 2, 3])
    answer({"load_s": time() - psutil.Process().create_time()})
    texts = prompts_of(loaded, 1, HISTORY_TOKENS + 2 * NEW_TURN_TOKENS)[0]
    vocabulary = int(loaded.model.config.vocab_size)
    for question in questions():
        if question == "turn":
            answer(turn(engine, texts))
        elif question == "arrival":
            answer(arrival(engine, texts))
        else:
            answer({"sampler_ms": sampler(vocabulary)})


def first_token_s(engine: Engine, ids: Sequence[int], *, owner: str = "", max_tokens: int = 1) -> float:
    """From submit to the first token; the answer is read to its end."""
    began = perf_counter()
    handle = engine.submit(ids, Sampling(temperature=0.0, max_tokens=max_tokens), owner=owner)
    first = 0.0
    left = True
    while left:
        left = engine.step()
        if not first and isinstance(handle.get(timeout=0), Delta):
            first = perf_counter() - began
    return first


def turn(engine: Engine, texts: Sequence[int]) -> dict[str, float]:
    """The first token of a turn of NEW_TURN_TOKENS behind HISTORY_TOKENS: of somebody whom the engine has not heard of,
    and of the one whose history it has just read."""
    owner = uuid.uuid4().hex
    ids = texts[: HISTORY_TOKENS + NEW_TURN_TOKENS]
    cold = first_token_s(engine, ids, owner=uuid.uuid4().hex)
    first_token_s(engine, texts[:HISTORY_TOKENS], owner=owner, max_tokens=2)
    warm = first_token_s(engine, ids, owner=owner)
    return {"cold_ms": 1000 * cold, "warm_ms": 1000 * warm}


def arrival(engine: Engine, texts: Sequence[int]) -> dict[str, float]:
    """Inter-token latencies of STREAMS streams: p50 of them before a prompt of HISTORY_TOKENS arrives; p99 while it is
    read; and its own time to the first token."""
    sampling = Sampling(temperature=0.0, max_tokens=STREAM_TOKENS)
    handles = [engine.submit(texts[60 * n : 60 * n + 60], sampling, owner=uuid.uuid4().hex) for n in range(STREAMS)]
    for _ in range(2 * STREAMS):
        engine.step()
    quiet = _latencies(engine, handles, steps=30)
    began = perf_counter()
    late = engine.submit(texts[:HISTORY_TOKENS], Sampling(temperature=0.0, max_tokens=1), owner=uuid.uuid4().hex)
    busy = _latencies(engine, handles, until=late)
    first = perf_counter() - began
    for handle in handles:
        handle.cancel()
    engine.step()
    return {
        "p50_ms": 1000 * report.percentile(quiet, 0.5),
        "p99_ms": 1000 * report.percentile(busy, 0.99),
        "first_ms": 1000 * first,
    }


def _latencies(
    engine: Engine, handles: Sequence[Handle], *, steps: int = 0, until: Handle | None = None
) -> list[float]:
    """Seconds between two tokens of each stream, over so many steps, or until another has its first token."""
    last: dict[int, float] = {}
    found: list[float] = []
    while steps > 0 or until is not None:
        engine.step()
        now = perf_counter()
        for place, handle in enumerate(handles):
            while handle.get(timeout=0) is not None:
                if place in last:
                    found.append(now - last[place])
                last[place] = now
        steps -= 1
        if until is not None and until.get(timeout=0) is not None:
            break
    return found


def sampler(vocabulary: int) -> list[float]:
    """Milliseconds of a step for SAMPLER_ROWS rows with top_p and top_k, over logits as a language model gives them:
    few are likely, most are not."""
    rows = [
        RowState(
            Sampling(temperature=0.8, top_p=0.9, top_k=40, seed=n),
            prompt_ids=(),
            resume_ids=(),
            eos_ids=frozenset(),
            vocabulary=vocabulary,
            device=torch.device("cpu"),
        )
        for n in range(SAMPLER_ROWS)
    ]
    chance = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(SAMPLER_ROWS, vocabulary, generator=chance)).bfloat16()
    one = Sampler()
    times = []
    for _ in range(SAMPLER_STEPS):
        began = perf_counter()
        choices = one.choose(logits, rows)
        times.append(1000 * (perf_counter() - began))
        for row, choice in zip(rows, choices, strict=True):
            assert choice.token is not None
            row.take(choice.token)
    return times
