"""`python -m bench.gpu`: what a GPU gives with random weights in the shapes of real models. No download, no server.

It needs torch and transformers, and of this repository `bench`, `inference/engine` and `inference/types.py` alone. Each
line also says its share of what the machine can do at most, as measured in the same run.
"""

from __future__ import annotations

import argparse
import gc
import math
import platform
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter

import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils import logging

from bench.gpu_models import SHAPES, Weights, loaded, random_model
from bench.gpu_peers import continuous_rate, generate_rate
from inference.engine.cpu import quicken
from inference.engine.engine import Engine
from inference.engine.passes import CacheKind
from inference.engine.requests import Handle
from inference.types import Sampling

WIDTH = 46
GREEDY = Sampling(temperature=0.0, max_tokens=100_000)
USUAL = Sampling(temperature=0.6, top_p=0.95, top_k=20, max_tokens=100_000, seed=1)
COMPARED_STREAMS = 64
WATCHED_STEPS = 16
KV_TOKENS = 256


@dataclass(frozen=True)
class Sizes:
    """How much is measured. prompt: tokens that each stream begins with; long: those of the prompt that is timed."""

    streams: tuple[int, ...]
    prompt: int
    long: int
    warm_up: int
    steps: int
    read_numbers: int
    matrix: int


FULL = Sizes((1, 8, 64, 256), prompt=128, long=8192, warm_up=8, steps=64, read_numbers=1 << 30, matrix=8192)
SMALL = Sizes((1, 4), prompt=20, long=200, warm_up=2, steps=4, read_numbers=1 << 20, matrix=128)


@dataclass(frozen=True)
class Limits:
    """Bytes read and bfloat16 operations a second."""

    bytes_per_s: float
    flops_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--model", choices=[*SHAPES], action="append", help="may be given twice; both, if left out")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to see that it runs")
    parser.add_argument("--no-peers", action="store_true", help="leave transformers' own generation out")
    options = parser.parse_args()
    logging.set_verbosity_error()
    device, sizes = torch.device(options.device), SMALL if options.tiny else FULL
    _machine(device)
    limits = _limits(device, sizes)
    for name in options.model or SHAPES:
        _measure(name, device, sizes, limits, tiny=options.tiny, peers=not options.no_peers)
        _let_go(device)


def _machine(device: torch.device) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    packages = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{name}; Python {platform.python_version()}, {packages}")


@torch.inference_mode()
def _limits(device: torch.device, sizes: Sizes) -> Limits:
    numbers = torch.ones(sizes.read_numbers, device=device)
    read = 4 * numbers.numel() / _seconds(numbers.sum, device)
    one = torch.randn(sizes.matrix, sizes.matrix, device=device).bfloat16()
    flops = 2 * sizes.matrix**3 / _seconds(lambda: one @ one, device)
    _title("The machine")
    _line("reading memory", f"{read / 1e9:.0f} GB/s")
    _line("multiplying, bfloat16", f"{flops / 1e12:.2f} TFLOP/s")
    return Limits(read, flops)


def _measure(name: str, device: torch.device, sizes: Sizes, limits: Limits, *, tiny: bool, peers: bool) -> None:
    model = random_model(name, device, tiny=tiny)
    weights = Weights.of(model)
    _title(f"{name}{' (tiny)' if tiny else ''}, {(weights.dense + weights.experts) / 1e9:.2f}e9 weights, bfloat16")
    compared = min(COMPARED_STREAMS, max(sizes.streams))
    rates = _peer_rates(model, compared, sizes) if peers else {}
    # As loading does it; the modules that it replaces are transformers' own until here.
    quicken(model, int8=False)
    ours = _decoding(model, device, sizes, limits, weights)
    for peer, rate in rates.items():
        _line(f"ours / {peer}, {compared} streams", f"{ours[compared] / rate:.2f}")
    _prefill(model, device, sizes, limits, weights)


def _peer_rates(model: PreTrainedModel, streams: int, sizes: Sizes) -> dict[str, float]:
    rates = {}
    prompts = _prompts(streams, sizes.prompt, model.config.vocab_size)
    for peer, measure in (("generate", generate_rate), ("continuous batching", continuous_rate)):
        try:
            rates[peer] = measure(model, prompts)
        # A peer that fails is told, and the rest is measured all the same.
        except (RuntimeError, ValueError, TypeError, ImportError, AttributeError, AssertionError) as error:
            _line(f"transformers' {peer}, {streams} streams", f"failed: {type(error).__name__}: {str(error)[:120]}")
            continue
        _line(f"transformers' {peer}, {streams} streams", f"{rates[peer]:,.0f} tokens/s")
    _let_go(model.device)
    return rates


def _decoding(
    model: PreTrainedModel, device: torch.device, sizes: Sizes, limits: Limits, weights: Weights
) -> dict[int, float]:
    """Tokens a second, by streams."""
    rates = {}
    # One block a stream, on a GPU: the 30B leaves no room for more at 256 streams.
    tokens_each = KV_TOKENS * math.ceil((sizes.prompt + sizes.warm_up + sizes.steps + WATCHED_STEPS + 2) / KV_TOKENS)
    for streams in sizes.streams:
        engine = _engine(model, device, slots=streams, kv_tokens=streams * tokens_each)
        handles = _start(engine, model, streams, sizes, GREEDY)
        seconds = _steps(engine, device, sizes.steps)
        rates[streams] = streams / seconds
        bound = 2 * weights.read(streams) / limits.bytes_per_s
        figures = f"{1e3 * seconds:.2f} ms a step, {bound / seconds:.0%} of weights / bandwidth"
        _line(f"decoding, {streams} streams", f"{rates[streams]:,.0f} tokens/s  {figures}")
        if streams == max(sizes.streams):
            _line("waits for the device, a step", _waits(engine, device, WATCHED_STEPS))
        for handle in handles:
            handle.cancel()
        engine.step()
        _start(engine, model, streams, sizes, USUAL)
        _line(f"  sampled: {_named(USUAL)}", f"{streams / _steps(engine, device, sizes.steps):,.0f} tokens/s")
        del engine, handles
        _let_go(device)
    return rates


def _prefill(model: PreTrainedModel, device: torch.device, sizes: Sizes, limits: Limits, weights: Weights) -> None:
    engine = _engine(model, device, slots=1, kv_tokens=4 * sizes.long)
    times = []
    for number in range(3):
        (prompt,) = _prompts(1, sizes.long, model.config.vocab_size, seed=number)
        handle = engine.submit(prompt, Sampling(temperature=0.0, max_tokens=1), owner=str(number))
        times.append(_seconds_of(partial(_until, engine, handle), device))
    seconds = min(times[1:])
    config = model.config
    attention = 2 * sizes.long**2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    share = (2 * weights.multiplied * sizes.long + attention) / limits.flops_per_s / seconds
    _line(f"prefill, {sizes.long} tokens", f"{sizes.long / seconds:,.0f} tokens/s  {share:.0%} of the matmul rate")


def _engine(model: PreTrainedModel, device: torch.device, *, slots: int, kv_tokens: int) -> Engine:
    return Engine(loaded(model, device), slots=slots, kv_tokens=kv_tokens, cache=CacheKind.PAGED)


def _start(engine: Engine, model: PreTrainedModel, streams: int, sizes: Sizes, sampling: Sampling) -> list[Handle]:
    """Requests of as many owners, all of which decode when it returns."""
    prompts = _prompts(streams, sizes.prompt, model.config.vocab_size)
    handles = [
        engine.submit(prompt, sampling, owner=f"{sampling.temperature}-{number}")
        for number, prompt in enumerate(prompts)
    ]
    for handle in handles:
        _until(engine, handle)
    for _ in range(sizes.warm_up):
        engine.step()
    return handles


def _steps(engine: Engine, device: torch.device, count: int) -> float:
    """Seconds a step."""

    def run() -> None:
        for _ in range(count):
            engine.step()

    return _seconds_of(run, device) / count


def _waits(engine: Engine, device: torch.device, count: int) -> str:
    """How often the host waits for the device."""
    if device.type != "cuda":
        return "known on a GPU only"
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(count):
                engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return f"{sum('synchronizing' in str(warning.message) for warning in told) / count:.2f}"


def _until(engine: Engine, handle: Handle) -> None:
    """Step until the handle has a token."""
    while handle.get(timeout=0) is None:
        engine.step()


def _prompts(count: int, length: int, vocabulary: int, seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(vocabulary) for _ in range(length)] for _ in range(count)]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of nine calls, after one that is not counted."""
    return median([_seconds_of(call, device) for _ in range(10)][1:])


def _seconds_of(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - began


def _let_go(device: torch.device) -> None:
    """Give back the memory of what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _named(sampling: Sampling) -> str:
    return f"temperature {sampling.temperature}, top_p {sampling.top_p}, top_k {sampling.top_k}"


def _title(text: str) -> None:
    print(f"\n{text}", flush=True)


def _line(name: str, value: str) -> None:
    print(f"  {name:<{WIDTH}} {value}", flush=True)


if __name__ == "__main__":
    main()
