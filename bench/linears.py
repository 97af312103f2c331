"""`python -m bench.linears FOLDER [THREADS]`: what the CPU can do, and what the model in FOLDER makes of it.

Kernels and models take turns within one process, so that the noise of a shared machine hits all alike; figures are
medians. The bound of a pass is what reading its weights once or multiplying them takes at least, whichever is longer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from bench import limits, report
from bench.limits import Limits, interleaved
from inference.engine.cpu import INT8_BLOCK, Int8, Packed, Plain, quicken
from inference.engine.loading import set_threads

ROWS = (1, 2, 4, 6, 8, 12, 16, 32, 64, 256)
PASS_ROWS = (1, 8, 32, 64, 256)
# More than the caches hold: in a pass each weight comes from memory.
COLD_BYTES = 64_000_000
TEXTS = ("README.md", "ARCHITECTURE.md", "docs/models.md", "docs/protocol.md")
WINDOW_TOKENS = 256
QUESTIONS = ("Why is the sky blue?", "Write a short story about a whale.", "How is bread baked?")
ANSWER_TOKENS = 96


def main(folder: str, threads: str = "0") -> None:
    set_threads(int(threads))
    report.machine()
    print(f"threads: {torch.get_num_threads()}, GOMP_SPINCOUNT: {os.environ.get('GOMP_SPINCOUNT', 'not set')}")
    models = {name: _plain(folder, torch.bfloat16) for name in ("plain", "quick", "int8")}
    shapes = _shapes(models["plain"])
    quicken(models["quick"], int8=False)
    quicken(models["int8"], int8=True)
    with torch.inference_mode():
        found = _limits()
        _kernels(shapes)
        _passes(models, shapes, found)
        _agreement(models, _plain(folder, torch.float32), AutoTokenizer.from_pretrained(folder))


def _plain(folder: str, dtype: torch.dtype) -> PreTrainedModel:
    """As transformers builds it: the engine's own loading would quicken it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)


def _limits() -> Limits:
    report.title("The machine")
    found = limits.measure()
    report.line("reading memory", f"{found.bytes_per_s / 1e9:.1f} GB/s")
    report.line("multiplying, float32", f"{found.float32_per_s / 1e9:.0f} GFLOP/s")
    report.line("multiplying, bfloat16", f"{found.bfloat16_per_s / 1e9:.0f} GFLOP/s")
    return found


def _shapes(model: nn.Module) -> list[tuple[int, int]]:
    """(out, in) of each linear, in the order of the modules."""
    return [(module.out_features, module.in_features) for module in model.modules() if type(module) is nn.Linear]


def _kernels(shapes: Sequence[tuple[int, int]]) -> None:
    for outputs, inputs in sorted(set(shapes)):
        copies = max(1, COLD_BYTES // (2 * outputs * inputs))
        weights = [torch.randn(outputs, inputs).bfloat16() for _ in range(copies)]
        makers = (Plain, Packed, Int8Rows) if inputs % INT8_BLOCK == 0 else (Plain, Packed)
        kernels = [[make(weight, None) for weight in weights] for make in makers]
        report.title(f"{outputs} x {inputs}, µs a call: {', '.join(make.__name__ for make in makers)}")
        for rows in ROWS:
            used = copies if rows < 32 else max(1, copies // 8)
            x = torch.randn(rows, inputs).bfloat16()
            times = interleaved([partial(_call_all, some[:used], x) for some in kernels], 9)
            report.line(f"{rows} rows", "  ".join(f"{1e6 * time / used:9.1f}" for time in times))


class Int8Rows(Int8):
    """The int8 kernel for any number of rows, to see from where on it loses."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x, self._rounded, self._scales)


def _call_all(kernels: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> None:
    for kernel in kernels:
        kernel(x)


def _passes(models: dict[str, PreTrainedModel], shapes: Sequence[tuple[int, int]], most: Limits) -> None:
    report.title(f"A pass without history, ms (share of its bound): {', '.join(models)}")
    weights = sum(outputs * inputs for outputs, inputs in shapes)
    for rows in PASS_ROWS:
        ids = torch.randint(5, 9999, (1, rows))
        calls = [partial(model, input_ids=ids, use_cache=False) for model in models.values()]
        times = interleaved(calls, 15 if rows < 64 else 5)
        bound = max(2 * weights / most.bytes_per_s, 2 * weights * rows / most.bfloat16_per_s)
        shown = "   ".join(f"{1e3 * time:7.1f} ({bound / time:4.0%})" for time in times)
        report.line(f"{rows} rows, bound {1e3 * bound:.1f} ms", shown)


def _agreement(models: dict[str, PreTrainedModel], exact: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """How far next-token distributions are from those of float32."""
    read = "\n".join(Path(name).read_text() for name in TEXTS)
    texts = {"Prose": _windows(tokenizer, read), "Its own answers": _answers(models["plain"], tokenizer)}
    for title, windows in texts.items():
        wanted = [_log_probabilities(exact, ids) for ids in windows]
        surprise = torch.cat([_surprise(some, ids) for some, ids in zip(wanted, windows, strict=True)])
        report.title(f"{title}, {len(surprise)} tokens; perplexity in float32: {surprise.mean().exp():.3f}")
        for name, model in models.items():
            got = [_log_probabilities(model, ids) for ids in windows]
            pairs = list(zip(wanted, got, strict=True))
            divergence = torch.cat([(w.exp() * (w - g)).sum(-1) for w, g in pairs]).mean()
            same = torch.cat([w.argmax(-1) == g.argmax(-1) for w, g in pairs]).float().mean()
            surprise = torch.cat([_surprise(some, ids) for some, ids in zip(got, windows, strict=True)])
            shown = f"KL {divergence:.5f} nats, same first choice {same:.2%}, perplexity {surprise.mean().exp():.3f}"
            report.line(name, shown)


def _windows(tokenizer: PreTrainedTokenizerFast, text: str) -> list[Tensor]:
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    return [window for window in torch.split(ids, WINDOW_TOKENS, dim=1)[:16] if window.shape[1] > 1]


def _answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[Tensor]:
    """What the model says when it always takes the likeliest token, after each question."""
    found = []
    for question in QUESTIONS:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
        found.append(model.generate(**prompt, do_sample=False, max_new_tokens=ANSWER_TOKENS))
    return found


def _log_probabilities(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Shape (tokens, vocabulary), float32."""
    out: Any = model(input_ids=ids, use_cache=False)
    return functional.log_softmax(out.logits[0].float(), dim=-1)


def _surprise(log_probabilities: Tensor, ids: Tensor) -> Tensor:
    """Nats, for each token but the first."""
    return -log_probabilities[:-1].gather(1, ids[0, 1:, None])[:, 0]


if __name__ == "__main__":
    main(*sys.argv[1:])
