"""Many streams at once: what the web process pays for a delta, and how late the delta is.

No model runs. A process of its own writes to the token log as workers would, another holds the sockets.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import psutil

from bench import report
from bench.helper import Helper
from tests.stack import Stack

STREAMS = 50
DELTAS_PER_S = 20
WARM_UP_S = 3.0
WINDOW_S = 5.0
WINDOWS = 4
IDLE_S = 4.0
CPU_MOST_US = 120.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The web process's clock at one moment: processor time in seconds, monotonic time in milliseconds. `yardstick_us`
    is what a fixed piece of Python cost since the last reading: it tells a slow moment of the machine from a slow
    product."""

    cpu_s: float
    at_ms: float
    yardstick_us: float = 0.0


def measure() -> None:
    """Start web and scheduler, load them, print. Blocks for about 40 seconds."""
    seconds = WARM_UP_S + WINDOWS * WINDOW_S + 1
    product = Stack()
    with Helper("bench.emitter", STREAMS, DELTAS_PER_S, seconds) as emitter, Helper("bench.browsers") as browsers:
        try:
            web = psutil.Process(product.start("web").pid)
            product.start("scheduler")
            product.wait_for_web()
            browsers.say(emitter.hear())
            browsers.hear()
            idle = list(_readings(web, IDLE_S, 1))
            emitter.say("begin")
            time.sleep(WARM_UP_S)
            busy = list(_readings(web, WINDOW_S, WINDOWS))
            emitted, received = emitter.hear(), browsers.hear()
            report.title(f"{STREAMS} streams of {DELTAS_PER_S} deltas/s, {WINDOWS} windows of {WINDOW_S:.0f} s")
            _print_delivery(emitted, received)
            _print_cpu(idle, busy, received)
            _print_latency(busy, emitted, received)
            report.memory({name: process.pid for name, process in product.processes.items()})
        finally:
            product.stop()


def _readings(process: psutil.Process, window_s: float, windows: int) -> Iterator[Reading]:
    yield _read(process, 0.0)
    for _ in range(windows):
        ends = time.monotonic() + window_s
        pieces = []
        while time.monotonic() < ends:
            time.sleep(0.1)
            pieces.append(_yardstick_us())
        yield _read(process, median(pieces))


def _read(process: psutil.Process, yardstick_us: float) -> Reading:
    spent = process.cpu_times()
    return Reading(cpu_s=spent.user + spent.system, at_ms=time.monotonic() * 1000, yardstick_us=yardstick_us)


def _yardstick_us() -> float:
    began = time.thread_time()
    for number in range(2000):
        str(number)
    return (time.thread_time() - began) * 1e6


def _print_delivery(emitted: list[Any], received: list[Any]) -> None:
    deltas = sum(len(stream["emitted_ms"]) for stream in emitted)
    frames = sum(len(stream["received"]) for stream in received)
    lost = sum(stream["characters"] for stream in emitted) - sum(stream["characters"] for stream in received)
    report.line("deltas emitted", f"{deltas}, in {frames} frames; {lost} characters lost")


def _print_cpu(idle: list[Reading], busy: list[Reading], received: list[Any]) -> None:
    moments = [moment for stream in received for _, moment in stream["received"]]
    costs, shares = [], []
    for before, after in pairwise(busy):
        frames = sum(before.at_ms <= moment < after.at_ms for moment in moments)
        costs.append((after.cpu_s - before.cpu_s) / frames * 1e6)
        shares.append(_share(before, after))
    report.line("web process, sockets open, nothing said", f"{_share(*idle):.1f} % of a core")
    report.line("web process under load", report.spread(shares, unit=" % of a core"))
    report.target("µs of web CPU for a delta delivered", costs, most=CPU_MOST_US)
    yardsticks = [reading.yardstick_us for reading in busy[1:]]
    report.line("µs for a fixed piece of Python meanwhile", report.spread(yardsticks))
    shares = [cost / yardstick for cost, yardstick in zip(costs, yardsticks, strict=True)]
    report.line("the one / the other", report.spread(shares, digits=2))


def _print_latency(busy: list[Reading], emitted: list[Any], received: list[Any]) -> None:
    """From the moment before the worker's XADD to the moment after the client's receive; of a merged frame, for each
    of its deltas."""
    middles, tails = [], []
    late = list(_latencies(emitted, received))
    for before, after in pairwise(busy):
        window = [latency for moment, latency in late if before.at_ms <= moment < after.at_ms]
        middles.append(report.percentile(window, 0.50))
        tails.append(report.percentile(window, 0.99))
    report.line("worker's emit to client, p50", report.spread(middles, unit=" ms"))
    report.line("worker's emit to client, p99", report.spread(tails, unit=" ms"))


def _latencies(emitted: list[Any], received: list[Any]) -> Iterator[tuple[float, float]]:
    """When each delta was emitted and how long it took to arrive, in milliseconds."""
    for sent, seen in zip(emitted, received, strict=True):
        first = 0
        for event, moment in seen["received"]:
            # Event 0 is the start; delta n is event n.
            for emit_ms in sent["emitted_ms"][first:event]:
                yield emit_ms, moment - emit_ms
            first = event


def _share(before: Reading, after: Reading) -> float:
    return (after.cpu_s - before.cpu_s) / (after.at_ms - before.at_ms) * 1e5
