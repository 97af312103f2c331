"""Figures for Prometheus that several processes count: histograms in a Redis hash, each observation one pipeline.

They may vanish with Redis, as counters may; nobody is billed by them. Names and units follow
https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Count, Min
from django.utils import timezone
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from redis.exceptions import RedisError

from inference import workers
from inference.models import Generation
from inference.stream import client

log = logging.getLogger("metrics")

KEY = "metrics"


@dataclass(frozen=True, slots=True)
class Histogram:
    name: str
    help: str
    bounds: tuple[float, ...]


TTFT = Histogram(
    "lambda_ttft_seconds",
    "From a request's arrival to its first token, the queue included.",
    (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
INTER_TOKEN = Histogram(
    "lambda_inter_token_seconds",
    "Mean time between the tokens of one answer.",
    (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
)
HISTOGRAMS = (TTFT, INTER_TOKEN)
TOKENS = {
    "tokens": ("completion_tokens", "Tokens sampled."),
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts."),
    "cached_tokens": ("cached_prompt_tokens", "Tokens of prompts that the prefix cache had."),
}


def observe(generation: Generation) -> None:
    """Count an answer that has ended. Raises RedisError."""
    labels = [generation.model, generation.door]
    with client().pipeline(transaction=False) as pipe:
        pipe.hincrby(KEY, json.dumps(["ended", *labels, generation.state]), 1)
        pipe.hincrby(KEY, json.dumps(["tokens", *labels]), generation.completion_tokens)
        pipe.hincrby(KEY, json.dumps(["prompt_tokens", *labels]), generation.prompt_tokens or 0)
        pipe.hincrby(KEY, json.dumps(["cached_tokens", *labels]), generation.cached_tokens)
        for histogram, value in _values(generation):
            place = next((str(bound) for bound in histogram.bounds if value <= bound), "+Inf")
            pipe.hincrby(KEY, json.dumps([histogram.name, *labels, place]), 1)
            pipe.hincrbyfloat(KEY, json.dumps([histogram.name, *labels, "sum"]), value)
        pipe.execute()


def count(name: str) -> None:
    """Count an event without labels: claim_lost, worker_lost. Raises RedisError."""
    client().hincrby(KEY, json.dumps([name]), 1)


class Collector:
    """What /metrics shows, read afresh at each scrape: two queries and three Redis calls."""

    def collect(self) -> Iterator[Metric]:
        yield from self._queues()
        try:
            yield from self._workers()
            yield from self._counted()
        except RedisError:
            log.warning("Redis does not answer; only the queues are counted")

    def _queues(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("lambda_queue_depth", "Generations that wait for a worker.", labels=["model", "door"])
        age = GaugeMetricFamily("lambda_queue_age_seconds", "Age of the oldest that waits.", labels=["model", "door"])
        running = GaugeMetricFamily("lambda_running", "Generations being written.", labels=["model", "door"])
        rows = Generation.objects.active().values("model", "door", "state")
        for row in rows.annotate(count=Count("id"), oldest=Min("created_at")):
            labels = [row["model"], row["door"]]
            if row["state"] == Generation.State.RUNNING:
                running.add_metric(labels, row["count"])
                continue
            depth.add_metric(labels, row["count"])
            age.add_metric(labels, (timezone.now() - row["oldest"]).total_seconds())
        yield from (depth, age, running)

    def _workers(self) -> Iterator[Metric]:
        rate = GaugeMetricFamily("lambda_worker_tokens_per_second", "Decode rate now.", labels=["worker", "model"])
        memory = GaugeMetricFamily("lambda_worker_memory_bytes", "Resident memory.", labels=["worker", "model"])
        slots = GaugeMetricFamily("lambda_worker_slots", "Answers it can write at once.", labels=["worker", "model"])
        kv = GaugeMetricFamily("lambda_worker_kv_ratio", "Share of the KV cache in use.", labels=["worker", "model"])
        for worker in workers.living():
            labels = [worker.worker, worker.model]
            rate.add_metric(labels, worker.tokens_per_s)
            memory.add_metric(labels, worker.memory_bytes)
            slots.add_metric(labels, worker.slots)
            kv.add_metric(labels, worker.kv_share)
        yield from (rate, memory, slots, kv)

    def _counted(self) -> Iterator[Metric]:
        stored = {tuple(json.loads(name)): float(value) for name, value in client().hgetall(KEY).items()}
        ended = CounterMetricFamily("lambda_generations", "Answers ended.", labels=["model", "door", "state"])
        tokens = {
            name: CounterMetricFamily(f"lambda_{metric}", words, labels=["model", "door"])
            for name, (metric, words) in TOKENS.items()
        }
        events = {
            "claim_lost": CounterMetricFamily("lambda_claims_lost", "Messages whose generation had been claimed."),
            "worker_lost": CounterMetricFamily("lambda_workers_lost", "Answers whose worker let its lease run out."),
        }
        for name, value in stored.items():
            if name[0] == "ended":
                ended.add_metric(name[1:], value)
            elif name[0] in tokens:
                tokens[name[0]].add_metric(name[1:], value)
        for event, family in events.items():
            family.add_metric([], stored.get((event,), 0))
        yield from (ended, *tokens.values(), *events.values())
        for histogram in HISTOGRAMS:
            yield _family(histogram, stored)


def _values(generation: Generation) -> Iterator[tuple[Histogram, float]]:
    if generation.ttft_ms is not None:
        yield TTFT, generation.ttft_ms / 1000
    if generation.tokens_per_s:
        yield INTER_TOKEN, 1 / generation.tokens_per_s


def _family(histogram: Histogram, stored: dict[tuple[str, ...], float]) -> Metric:
    family = HistogramMetricFamily(histogram.name, histogram.help, labels=["model", "door"])
    series: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for name, value in stored.items():
        if name[0] == histogram.name:
            series[name[1], name[2]][name[3]] = value
    for labels, places in series.items():
        total, buckets = 0.0, []
        for bound in [*map(str, histogram.bounds), "+Inf"]:
            total += places.get(bound, 0)
            buckets.append((bound, total))
        family.add_metric(labels, buckets, sum_value=places.get("sum", 0))
    return family
