"""Layers that lean.py computes say what transformers' own code says; those that it does not know are left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from inference.engine import slot_attention
from inference.engine.attention import Segment
from inference.engine.cpu import quicken
from inference.engine.lean import slim
from inference.engine.probing import read_packed

VOCABULARY = 160
LAYERS = 2
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KNOWN = {
    "llama": LlamaConfig(**SHAPE),
    "llama, bias": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama, gelu": LlamaConfig(**SHAPE, hidden_act="gelu"),
    "qwen2": Qwen2Config(**SHAPE),
    "mistral, a window of 5": MistralConfig(**SHAPE, sliding_window=5),
    "granite, scores scaled its own way": GraniteConfig(**SHAPE, attention_multiplier=0.5),
}
OTHERS = {
    # Its names are llama's; what its layers add to the residual is not.
    "granite, half of each layer": GraniteConfig(**SHAPE, residual_multiplier=0.5),
    "qwen3": Qwen3Config(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE),
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
}


@pytest.fixture(autouse=True)
def one_thread_without_gradients() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    with torch.inference_mode():
        yield


def build(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    with torch.inference_mode(False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn_like(parameter) * scale + (parameter.dim() == 1))
        model = model.to(dtype)
    quicken(model, int8=False)
    return model


class Slots:
    """Two slots of 40 tokens."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._layers = [torch.zeros(2, 2, 40, 2, 16, dtype=dtype) for _ in range(LAYERS)]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        keys, values = self._layers[index]
        return keys, values


def logits(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> Tensor:
    """A prompt of 12 tokens and one of 20, then a token of each."""
    storage = Slots(dtype)

    def read(ids: Tensor, *segments: Segment) -> Tensor:
        layout = slot_attention.Packed(storage, segments, torch.device("cpu"), dtype)
        return read_packed(model, ids, layout, None)

    prompts = read(torch.arange(3, 35), Segment(0, 0, 12), Segment(1, 0, 20))
    return torch.cat([prompts, read(torch.tensor([50, 60]), Segment(0, 12, 1), Segment(1, 20, 1))])


@pytest.mark.parametrize("name", KNOWN)
def test_a_layer_of_the_common_kind_says_in_float32_what_it_said_before(name: str) -> None:
    model = build(KNOWN[name])
    wanted = logits(model)
    assert slim(model) == LAYERS
    torch.testing.assert_close(logits(model), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_in_bfloat16_it_errs_no_more_than_the_plain_code(name: str) -> None:
    exact = logits(build(KNOWN[name]))
    torch.manual_seed(3)
    model = build(KNOWN[name], torch.bfloat16)
    plain = (logits(model, torch.bfloat16).float() - exact).norm()
    assert slim(model) == LAYERS
    assert (logits(model, torch.bfloat16).float() - exact).norm() < 1.5 * plain


@pytest.mark.parametrize("name", OTHERS)
def test_what_it_does_not_know_is_left_alone(name: str) -> None:
    model = build(OTHERS[name])
    wanted = logits(model)
    assert slim(model) == 0
    assert torch.equal(logits(model), wanted)


def test_done_twice_it_is_done_once() -> None:
    model = build(KNOWN["llama"])
    slim(model)
    said = logits(model)
    assert slim(model) == LAYERS
    assert torch.equal(logits(model), said)


def test_a_pass_without_a_layout_goes_through_the_models_own_code() -> None:
    model = build(KNOWN["llama"])
    ids = torch.arange(3, 15)[None]
    wanted = model(input_ids=ids, use_cache=False).logits
    slim(model)
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, wanted)
