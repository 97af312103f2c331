"""Every architecture that a catalog may name: many requests at once give what transformers' generate gives each alone.

The models are tiny, random and in float32, greedy, so that the tokens must be equal one for one.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel
from inference.engine.passes import CacheKind
from inference.types import Delta, Finished, FinishReason, Sampling

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
WINDOW = 8  # shorter than the prompts
PACKED: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {},
    "qwen3_moe": {**EXPERTS, "num_experts": 4},
    "mistral": {"sliding_window": WINDOW},
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    "phi3": {},
    "gpt_oss": {"sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        **EXPERTS,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "head_dim": 8,
        "num_key_value_heads": 4,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "glm4_moe": {**EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
}
SEPARATE: dict[str, dict[str, Any]] = {
    "qwen3_next": {
        **EXPERTS,
        "num_experts": 4,
        "shared_expert_intermediate_size": 24,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_hidden_layers": 4,
    },
}
NEW_TOKENS = 12


def random_model(kind: str, **fields: Any) -> PreTrainedModel:
    """A tiny model of this architecture in float32; `fields` over SIZES."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(kind, **{**SIZES, **fields})
    # The fused kernel computes neither Gemma 2's cap on scores nor gpt-oss's sinks.
    config._attn_implementation = "eager"
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.requires_grad_(False)
    # Random weights as they come make every token alike.
    for parameter in model.parameters():
        parameter.mul_(4 if parameter.ndim > 1 else 1)
    return model


def _loaded(kind: str, tiny: LoadedModel, **fields: Any) -> LoadedModel:
    return replace(tiny, model=random_model(kind, **fields), context_length=256, eos_ids=frozenset())


def _prompts(chance: random.Random) -> list[list[int]]:
    return [[chance.randrange(3, 300) for _ in range(length)] for length in (1, 5, 40, 17, 90, 2, 33)]


def _alone(loaded: LoadedModel, prompt: list[int]) -> list[int]:
    output = loaded.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    return [int(token) for token in output[0, len(prompt) :]]


def _tokens(handle: Any) -> tuple[list[int], Finished]:
    *deltas, end = list(handle)
    return [token for delta in deltas if isinstance(delta, Delta) for token in delta.token_ids], end


CASES = [*product(PACKED, (CacheKind.SLOTS, CacheKind.PAGED)), *product(SEPARATE, (CacheKind.AUTO,))]


@pytest.mark.parametrize(("kind", "cache"), CASES)
def test_many_at_once_give_what_each_gives_alone(kind: str, cache: CacheKind, tiny: LoadedModel) -> None:
    """With prompts read in pieces, requests that come and are cancelled in between, and too little memory for all."""
    loaded = _loaded(kind, tiny, **(PACKED | SEPARATE)[kind])
    engine = Engine(loaded, slots=4, kv_tokens=224, step_tokens=48, chunk_tokens=16, cache=cache)
    assert (type(engine._passes).__name__ == "Packed") is (kind in PACKED)
    chance = random.Random(kind)
    prompts = _prompts(chance)
    greedy = Sampling(temperature=0, max_tokens=NEW_TOKENS)
    handles = [engine.submit(prompt, greedy, owner=f"o{number % 3}") for number, prompt in enumerate(prompts[:5])]
    cancelled = engine.submit(prompts[2], replace(greedy, max_tokens=100))
    for _ in range(6):
        engine.step()
    handles += [engine.submit(prompt, greedy) for prompt in prompts[5:]]
    cancelled.cancel()
    while engine.step():
        pass
    assert _tokens(cancelled)[1].reason is FinishReason.CANCELLED
    for prompt, handle in zip(prompts, handles, strict=True):
        tokens, end = _tokens(handle)
        assert end.reason is FinishReason.LENGTH
        assert tokens == _alone(loaded, prompt)


def test_positions_that_depend_on_the_longest_request_are_read_one_by_one(tiny: LoadedModel) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    loaded = _loaded("llama", tiny, rope_parameters=rope)
    assert type(Engine(loaded)._passes).__name__ == "Separate"


@pytest.mark.parametrize(("kind", "cache"), [case for case in CASES if case[0] in ("llama", *SEPARATE)])
def test_a_pass_that_fails_for_one_request_changes_no_other_answer(
    kind: str, cache: CacheKind, tiny: LoadedModel
) -> None:
    """Who is read before the one that fails must not be read twice."""
    loaded = _loaded(kind, tiny, **(PACKED | SEPARATE)[kind])
    engine = Engine(loaded, slots=4, cache=cache)
    prompts = _prompts(random.Random(kind))[1:4]
    greedy = Sampling(temperature=0, max_tokens=NEW_TOKENS)
    poison = 2

    def fail(model: torch.nn.Module, args: tuple[()], given: dict[str, torch.Tensor]) -> None:
        if poison in given["input_ids"]:
            raise RuntimeError("out of memory")

    good = [engine.submit(prompt, greedy) for prompt in prompts]
    engine.step()
    bad = engine.submit([5, poison], greedy)
    hook = loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        while engine.step():
            pass
    finally:
        hook.remove()
    assert _tokens(bad)[1] == Finished(FinishReason.ERROR, "RuntimeError: out of memory")
    for prompt, handle in zip(prompts, good, strict=True):
        assert _tokens(handle)[0] == _alone(loaded, prompt)
