"""Helper: this engine, asked for many answers of one length at once.

First it answers what the peers need: {"prompts", "flags"}. Then, to {"streams", "new_tokens"}, for each
stream the ids and when each was given out, in seconds since the first was submitted; to "limits", what `limits` finds.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from bench import limits
from bench.lines import answer, questions
from bench.place import ROOT
from inference.engine.engine import CHUNK_TOKENS, STEP_TOKENS, Engine
from inference.engine.loading import LoadedModel, load, set_threads
from inference.types import Delta, Sampling

TEXTS = ("ARCHITECTURE.md", "README.md", "docs/protocol.md", "docs/models.md")


def main(folder: str, threads: str, most_streams: str, prompt_tokens: str) -> None:
    set_threads(int(threads))
    loaded = replace(load(Path(folder), device="cpu", dtype="bfloat16"), eos_ids=frozenset())
    prompts = prompts_of(loaded, int(most_streams), int(prompt_tokens))
    engine = Engine(loaded, slots=int(most_streams))
    answer({"prompts": prompts, "flags": _flags()})
    for question in questions():
        answer(asdict(limits.measure(5)) if question == "limits" else run(engine, prompts, **question))


def run(engine: Engine, prompts: list[list[int]], *, streams: int, new_tokens: int) -> dict[str, Any]:
    began = perf_counter()
    sampling = Sampling(temperature=0.0, max_tokens=new_tokens)
    # An owner each: nothing comes from the prefix cache.
    handles = [engine.submit(ids, sampling, owner=uuid.uuid4().hex) for ids in prompts[:streams]]
    ids: list[list[int]] = [[] for _ in handles]
    times: list[list[float]] = [[] for _ in handles]
    left = True
    while left:
        left = engine.step()
        now = perf_counter() - began
        for place, handle in enumerate(handles):
            while event := handle.get(timeout=0):
                if isinstance(event, Delta):
                    ids[place] += event.token_ids
                    times[place] += [now] * len(event.token_ids)
    return {"ids": ids, "times": times}


def prompts_of(loaded: LoadedModel, count: int, length: int) -> list[list[int]]:
    """Neighbouring pieces of the project's own texts."""
    text = "\n".join((ROOT / name).read_text() for name in TEXTS)
    ids = loaded.tokenizer.encode(text, add_special_tokens=False)
    return [ids[n * length : (n + 1) * length] for n in range(count)]


def _flags() -> str:
    return (
        f"torch {torch.__version__}, bfloat16, {torch.get_num_threads()} threads, GOMP_SPINCOUNT "
        f"{os.environ['GOMP_SPINCOUNT']}, {STEP_TOKENS['cpu']} tokens a step, {CHUNK_TOKENS['cpu']} beside answers"
    )
