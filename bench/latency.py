"""What a person waits for: a second turn, a neighbour's long prompt, the sampler, and a model that is being loaded."""

from __future__ import annotations

import os
from statistics import median

from django.conf import settings

from bench import report
from bench.helper import Helper
from inference import weights
from inference.availability import catalog

LOADS = 3
REPETITIONS = 5
TURN_RATIO_LEAST = 15
ARRIVAL_RATIO_MOST = 3
SAMPLER_MOST_MS = 5
LOAD_MOST_S = 6


def measure() -> None:
    """Ask a process of its own for each; print. Blocks for about a minute and a half."""
    spec = catalog().default
    folder = weights.pull(spec, settings.MODELS_DIR, lambda phase, done, total: None)
    threads = len(os.sched_getaffinity(0))
    report.title(f"Latencies of the engine: {spec.slug}, {threads} threads")
    loads = []
    for number in range(LOADS):
        with Helper("bench.engine_latency", folder, threads) as engine:
            loads.append(engine.hear()["load_s"])
            if number == LOADS - 1:
                _ask(engine)
    report.target("process started to its first token, s", loads, most=LOAD_MOST_S)


def _ask(engine: Helper) -> None:
    turns = [engine.ask("turn") for _ in range(REPETITIONS)]
    report.line("2,020 tokens, none of them known", report.spread([turn["cold_ms"] for turn in turns], unit=" ms"))
    report.line("the same, the first 2,000 known", report.spread([turn["warm_ms"] for turn in turns], unit=" ms"))
    ratios = [turn["cold_ms"] / turn["warm_ms"] for turn in turns]
    report.target("time to the first token, cold / warm", ratios, least=TURN_RATIO_LEAST)
    arrivals = [engine.ask("arrival") for _ in range(REPETITIONS)]
    report.line("8 streams alone, inter-token p50", report.spread([each["p50_ms"] for each in arrivals], unit=" ms"))
    report.line(
        "while 2,000 tokens are read, inter-token p99", report.spread([each["p99_ms"] for each in arrivals], unit=" ms")
    )
    report.line("their first token comes after", report.spread([each["first_ms"] for each in arrivals], unit=" ms"))
    ratios = [each["p99_ms"] / each["p50_ms"] for each in arrivals]
    report.target("p99 / p50", ratios, most=ARRIVAL_RATIO_MOST)
    times = [median(engine.ask("sampler")["sampler_ms"]) for _ in range(REPETITIONS)]
    report.target("sampler, 32 rows with top-p and top-k, ms a step", times, most=SAMPLER_MOST_MS)
