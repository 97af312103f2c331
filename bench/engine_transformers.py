"""Helper: transformers' ContinuousBatchingManager over the same weights, as engine_ours is asked and answers.

The first question has the prompts; it answers {"flags"}.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "USE_HUB_KERNELS": "NO"}

import torch
import transformers
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from bench.lines import answer, questions

# Batches twice as large as ours; not tuned further. Shared blocks would answer a repeated prompt from memory.
SETTINGS = {"page_size": 64, "num_blocks": 512, "max_batch_tokens": 512, "allow_block_sharing": False}
NO_TOKEN = -1


def main(folder: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)
    model = AutoModelForCausalLM.from_pretrained(
        Path(folder), dtype=torch.bfloat16, attn_implementation="sdpa", local_files_only=True
    ).eval()
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=NO_TOKEN),
        continuous_batching_config=ContinuousBatchingConfig(**SETTINGS),
    )
    manager.start()
    asked = questions()
    prompts = next(asked)
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    answer({"flags": f"{transformers.__version__}, bfloat16, sdpa, {threads} threads, {settings}"})
    for question in asked:
        answer(run(manager, prompts, **question))


def run(manager: Any, prompts: list[list[int]], *, streams: int, new_tokens: int) -> dict[str, Any]:
    began = perf_counter()
    keys = [
        manager.add_request(ids, max_new_tokens=new_tokens, eos_token_id=NO_TOKEN, record_timestamps=True)
        for ids in prompts[:streams]
    ]
    done: dict[str, Any] = {}
    while len(done) < streams:
        result = manager.get_result(timeout=1)
        if result is not None and result.is_finished():
            done[result.request_id] = result
        elif result is None and not manager.is_running():
            raise RuntimeError(f"the manager has died: {manager.background_thread_status.fatal_error}")
    results = [done[key] for key in keys]
    return {
        "ids": [result.generated_tokens for result in results],
        "times": [[moment - began for moment in result.timestamps] for result in results],
    }
