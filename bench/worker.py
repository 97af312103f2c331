"""Many answers at once, by the engine alone and by the engine in a Celery worker: tokens/s, and the one / the other.

No browser follows. Rows go into PostgreSQL and messages to Celery as the service sends them; the worker publishes to
Redis and saves, as always. The two sides take turns and never run at once. The worker claims one answer after the
other, some milliseconds apart, and a prompt that comes while another answer grows is read in smaller parts: the engine
alone is given the same prompts at the same intervals.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence

from django.conf import settings
from django.db import transaction

from bench import report, visitor
from bench.helper import Helper
from inference import generations, weights
from inference.availability import catalog
from inference.catalog import ModelSpec
from inference.models import Generation
from inference.types import Turn
from tests.stack import Stack

# How many answers at once, and how often: a lone one is over so soon that it is measured more often.
BURSTS = {1: 8, 8: 4, 16: 4, 32: 3}
MAX_TOKENS = 64
RATIO_LEAST = 0.95
PATIENCE_S = 300.0
# The default model has more than MAX_TOKENS tokens to say about each.
HEROES = (
    "a lighthouse keeper",
    "a whale",
    "an old sailor",
    "a baker",
    "two sisters",
    "a lost dog",
    "a clockmaker",
    "a fox",
)
PLACES = ("by the sea", "in the mountains", "in a big city", "on a long journey")


def measure() -> None:
    """Start engine and worker, give both the same work in turn, print. Blocks for two to three minutes."""
    spec = catalog().default
    threads, slots = len(os.sched_getaffinity(0)), max(BURSTS)
    folder = weights.pull(spec, settings.MODELS_DIR, lambda phase, done, total: None)
    product = Stack()
    with Helper("bench.bursts", folder, spec.dtype, spec.context_length, threads, slots) as engine:
        try:
            engine.hear()
            product.worker(spec.slug, WORKER_THREADS=str(threads), WORKER_SLOTS=str(slots))
            report.title(f"Engine and worker: {spec.slug}, greedy, {MAX_TOKENS} tokens, {threads} threads")
            for count, repetitions in BURSTS.items():
                _compare(engine, spec, count, repetitions)
            report.memory({name: process.pid for name, process in product.processes.items()})
        finally:
            product.stop()


def _compare(engine: Helper, spec: ModelSpec, count: int, repetitions: int) -> None:
    prompts = [f"Write a long story about {hero} {place}." for place in PLACES for hero in HEROES][:count]
    alone: list[float] = []
    inside: list[float] = []
    # The first of each size is slower, for both: it is not counted.
    for _ in range(repetitions + 1):
        rate, arrivals_s = _by_worker(spec, prompts)
        engine.say({"prompts": prompts, "max_tokens": MAX_TOKENS, "arrivals_s": arrivals_s})
        heard = engine.hear()
        alone.append((heard["tokens"] - 1) / heard["seconds"])
        inside.append(rate)
    ratios = [one / other for one, other in zip(inside[1:], alone[1:], strict=True)]
    report.line(f"{count} at once, engine alone", report.spread(alone[1:], unit=" tokens/s"))
    report.line(f"{count} at once, in the worker", report.spread(inside[1:], unit=" tokens/s"))
    report.target("worker / engine, pair by pair", ratios, least=RATIO_LEAST, digits=3)


def _by_worker(spec: ModelSpec, prompts: Sequence[str]) -> tuple[float, list[float]]:
    """Tokens/s from the first token of any answer to the last end, by the worker's own times, and the seconds between
    the first claim and each, in order."""
    # An owner each: nothing comes from the prefix cache, and fairness has no say.
    requests = [_request(spec, prompt) for prompt in prompts]
    with transaction.atomic():
        keys = [generations.start(request).pk for request in requests]
    rows = Generation.objects.filter(pk__in=keys)
    deadline = time.monotonic() + PATIENCE_S
    # Seldom: each look takes time from the two cores that the model computes on.
    while rows.active().exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{rows.active().count()} answers were not done within {PATIENCE_S:.0f} s")
        time.sleep(0.25)
    done = list(rows)
    if failed := [row for row in done if row.state != Generation.State.DONE]:
        raise RuntimeError(f"{failed[0]} failed: {failed[0].error_code}")
    first = min(row.first_token_at for row in done if row.first_token_at is not None)
    last = max(row.finished_at for row in done if row.finished_at is not None)
    claims = sorted(row.started_at for row in done if row.started_at is not None)
    rate = (sum(row.completion_tokens for row in done) - 1) / (last - first).total_seconds()
    return rate, [(claim - claims[0]).total_seconds() for claim in claims]


def _request(spec: ModelSpec, prompt: str) -> generations.Request:
    return generations.Request(
        owner=visitor.new().owner,
        door=Generation.Door.CHAT,
        model=spec,
        turns=[Turn("user", prompt)],
        options=generations.Options(temperature=0.0, max_tokens=MAX_TOKENS),
        key=uuid.uuid4(),
        fingerprint=generations.fingerprint(prompt),
    )
