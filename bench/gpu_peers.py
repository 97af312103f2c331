"""The same model in transformers' own hands: `generate` over a padded batch, and its continuous batching."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from transformers import GenerationConfig, PreTrainedModel

# The rate of decoding is that of the tokens between these two lengths: prompts and starts fall out.
SHORT, LONG = 8, 72

Prompts = Sequence[Sequence[int]]


def generate_rate(model: PreTrainedModel, prompts: Prompts) -> float:
    """Tokens a second of `generate`, batched."""
    ids = torch.tensor(prompts, device=model.device)

    def run(tokens: int) -> None:
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=_settings(tokens))

    return _rate(run, len(prompts))


def continuous_rate(model: PreTrainedModel, prompts: Prompts) -> float:
    """Tokens a second of `generate_batch`, transformers' continuous batching."""
    from transformers import ContinuousBatchingConfig  # not in every version

    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    inputs = [list(prompt) for prompt in prompts]
    # On a GPU it chooses for itself; a CPU's memory would be taken by half.
    sizes = {} if model.device.type == "cuda" else {"num_blocks": 4 * len(inputs), "max_batch_tokens": 256}

    def run(tokens: int) -> None:
        done = model.generate_batch(
            inputs=inputs,
            generation_config=_settings(tokens),
            continuous_batching_config=ContinuousBatchingConfig(**sizes),
            persistent_manager=True,
        )
        said = sum(len(output.generated_tokens) for output in done.values())
        if said != tokens * len(inputs):
            raise RuntimeError(f"{said} tokens were generated in the place of {tokens * len(inputs)}")

    try:
        return _rate(run, len(prompts))
    finally:
        model.destroy_cached_continuous_batching_manager()


def _settings(tokens: int) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cache=True
    )


def _rate(run: Callable[[int], None], streams: int) -> float:
    run(LONG)  # the first is not counted, and what it takes memory for must be the longer one
    seconds = []
    for tokens in (SHORT, LONG):
        began = perf_counter()
        run(tokens)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(perf_counter() - began)
    return streams * (LONG - SHORT) / (seconds[1] - seconds[0])
