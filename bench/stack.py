"""One stream through the whole product, beside the bare engine: tokens/s, and where the first token's time goes.

The two take turns, prompt by prompt, and never run at once, so that the noise of a shared machine hits both alike.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from django.conf import settings
from websockets.sync.client import ClientConnection, connect

from bench import report, visitor
from bench.answer import PLACES, Answer, ask
from bench.helper import Helper
from inference import weights
from inference.availability import catalog
from tests.stack import Stack

MAX_TOKENS = 96
REPETITIONS = 4
PATIENCE_S = 120.0
RATIO_LEAST = 0.95
ADDED_TTFT_MOST_MS = 30.0
PROMPTS = (
    "Write a long story about a lighthouse keeper and a whale.",
    "Explain in detail how a bicycle stays upright.",
    "List the planets of the solar system and describe each of them at length.",
    "Describe, step by step, how bread is baked, from the grain to the loaf. Say what happens in the dough at each "
    "step and why, what can go wrong, how a baker notices it, and what he does about it then.",
)


@dataclass(frozen=True, slots=True)
class Bare:
    """The engine's own times: seconds since the prompt's text was in hand."""

    prompt_s: float
    first_s: float
    last_s: float
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        return (self.tokens - 1) / (self.last_s - self.first_s)


@dataclass(frozen=True, slots=True)
class Pair:
    """The same prompt through both, one right after the other."""

    bare: Bare
    whole: Answer


def measure() -> None:
    """Start everything, let both answer in turn, print. Blocks for one to four minutes."""
    spec = catalog().default
    threads = len(os.sched_getaffinity(0))
    folder = weights.pull(spec, settings.MODELS_DIR, lambda phase, done, total: None)
    product = Stack()
    with Helper("bench.bare_engine", folder, spec.dtype, spec.context_length, threads) as engine:
        try:
            product.start("web")
            product.start("scheduler")
            product.wait_for_web()
            engine.hear()
            product.worker(spec.slug, WORKER_THREADS=str(threads))
            report.title(f"One stream: {spec.slug}, greedy, {MAX_TOKENS} tokens, {threads} threads")
            pairs = _pairs(engine, spec.slug)
            _print_speed(pairs)
            _print_first_token(pairs)
            report.memory({name: process.pid for name, process in product.processes.items()})
        finally:
            product.stop()


def _pairs(engine: Helper, model: str) -> list[Pair]:
    headers = visitor.headers(visitor.new().cookie)
    with connect(visitor.address(), additional_headers=headers) as socket:
        # The first pass through a model is slower, for both: one short answer each is not counted.
        _pair(engine, socket, PROMPTS[0], model, max_tokens=16)
        began = time.monotonic()
        pairs: list[Pair] = []
        for _ in range(REPETITIONS):
            # On a machine that is busy with other things an answer takes ten times as long.
            if pairs and time.monotonic() - began > PATIENCE_S:
                break
            pairs += [_pair(engine, socket, prompt, model, max_tokens=MAX_TOKENS) for prompt in PROMPTS]
        return pairs


def _pair(engine: Helper, socket: ClientConnection, prompt: str, model: str, *, max_tokens: int) -> Pair:
    engine.say({"prompt": prompt, "max_tokens": max_tokens})
    bare = Bare(**engine.hear())
    return Pair(bare, ask(socket, prompt, model=model, max_tokens=max_tokens))


def _print_speed(pairs: list[Pair]) -> None:
    ratios = [pair.whole.tokens_per_s / pair.bare.tokens_per_s for pair in pairs]
    report.line("bare engine", report.spread([pair.bare.tokens_per_s for pair in pairs], unit=" tokens/s"))
    report.line(
        "whole product, at the client", report.spread([pair.whole.tokens_per_s for pair in pairs], unit=" tokens/s")
    )
    report.target("product / engine, pair by pair", ratios, least=RATIO_LEAST, digits=3)


def _print_first_token(pairs: list[Pair]) -> None:
    report.title("Time to the first token (ms)")
    report.line("bare engine, prompt building", report.spread([pair.bare.prompt_s * 1000 for pair in pairs]))
    report.line("bare engine, in all", report.spread([pair.bare.first_s * 1000 for pair in pairs]))
    report.line("whole product, at the client", report.spread([pair.whole.first_s * 1000 for pair in pairs]))
    added = [(pair.whole.first_s - pair.bare.first_s) * 1000 for pair in pairs]
    report.target("added by the product, pair by pair", added, most=ADDED_TTFT_MOST_MS)
    for place, label in PLACES.items():
        report.line(f"  {label}", report.spread([pair.whole.steps_ms[place] for pair in pairs]))
