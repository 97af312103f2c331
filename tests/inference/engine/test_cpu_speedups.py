"""What quicken() replaces computes what was there before: in float32 exactly as far as greedy tokens tell, in bfloat16
within the rounding of the format. Architectures are random and tiny; what their names promise is not relied on."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from inference.engine import cpu
from inference.engine.cpu import Linear, Part, RmsNorm, quicken

VOCABULARY = 160
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "llama, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, bias": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE),
    "gemma3": Gemma3TextConfig(**SHAPE),
    "mixtral": MixtralConfig(**SHAPE, **EXPERTS),
    "gpt-oss": GptOssConfig(**SHAPE, **EXPERTS),
    "phi3": Phi3Config(**SHAPE),
}
MAPS = Path("/proc/self/maps")
BF16_STEP = 2.0**-8  # half the distance between neighbouring bfloat16 numbers, relative to them

needs_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 kernels"
)


@pytest.fixture(autouse=True)
def one_thread_without_gradients() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    with torch.inference_mode():
        yield


def build(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Random weights, with norms and biases that matter: as they are initialised, they are all ones or zeros."""
    with torch.inference_mode(False):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name])).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
        return model.to(dtype)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    out: Tensor = model(input_ids=ids, use_cache=False).logits
    return out


def greedy(model: nn.Module, count: int = 12) -> list[int]:
    """Tokens one by one, the whole text read anew for each."""
    ids = torch.tensor([[1, 17, 42, 99]])
    for _ in range(count):
        ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], dim=1)
    return ids[0].tolist()


def count_of(model: nn.Module, kind: type) -> int:
    return sum(type(module) is kind for module in model.modules())


@pytest.mark.parametrize("name", CONFIGS)
def test_each_architecture_says_in_float32_what_it_said_before(name: str) -> None:
    model = build(name)
    ids = torch.randint(3, VOCABULARY, (1, 24))
    said, wanted = greedy(model), logits(model, ids)
    quicken(model, int8=False)
    torch.testing.assert_close(logits(model, ids), wanted, rtol=1e-5, atol=1e-5)
    assert greedy(model) == said


@needs_bf16
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("int8", [False, True])
def test_each_architecture_stays_close_in_bfloat16(name: str, int8: bool) -> None:
    """Against float32, the replaced model errs no more than the plain bfloat16 one does, give or take a half; with int8
    three times as much, since most weights are rounded more coarsely than to a bfloat16 number."""
    exact = build(name)
    plain = copy.deepcopy(exact).bfloat16()
    quick = copy.deepcopy(plain)
    quicken(quick, int8=int8)
    for length in (1, 3, 40):
        ids = torch.randint(3, VOCABULARY, (1, length))
        wanted = logits(exact, ids)
        error = (logits(plain, ids).float() - wanted).norm()
        assert (logits(quick, ids).float() - wanted).norm() < error * (3 if int8 else 1.5) + BF16_STEP * wanted.norm()


@needs_bf16
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 64), (5, 20), (1, 96), (97, 33)])
def test_a_packed_linear_gives_the_product_rounded_once(outputs: int, inputs: int, bias: bool) -> None:
    holder = nn.Sequential(nn.Linear(inputs, outputs, bias=bias)).bfloat16()
    plain = copy.deepcopy(holder[0])
    quicken(holder, int8=False)
    assert type(holder[0]) is Linear
    for shape in [(1, inputs), (1, 7, inputs), (2, 3, inputs), (0, inputs)]:
        x = torch.randn(shape).bfloat16()
        wanted = nn.functional.linear(x.double(), plain.weight.double(), plain.bias.double() if bias else None)
        got = holder(x)
        assert got.shape == wanted.shape
        assert got.dtype == torch.bfloat16
        # Sums are kept in float32: what is left is the rounding of the result, and of a sum that nearly cancels.
        torch.testing.assert_close(got.double(), wanted, rtol=BF16_STEP, atol=1e-5)
    assert torch.equal(holder[0].weight, plain.weight)


@needs_bf16
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 64), (5, 32), (1, 96), (7, 20)])
@pytest.mark.parametrize("rows", [1, cpu.INT8_ROWS, cpu.INT8_ROWS + 1, 30])
def test_int8_uses_the_same_rounded_weights_for_few_and_for_many_rows(outputs: int, inputs: int, rows: int) -> None:
    holder = nn.Sequential(nn.Linear(inputs, outputs)).bfloat16()
    plain = copy.deepcopy(holder[0])
    quicken(holder, int8=True)
    rounded = holder[0].weight
    steps = plain.weight.float().abs().amax(1, keepdim=True) / 127
    # Half a step of the rounding, and the rounding of the scale and of the product to bfloat16.
    assert ((rounded.float() - plain.weight.float()).abs() <= steps / 2 + 127 * steps * 2 * BF16_STEP).all()
    x = torch.randn(rows, 2 * inputs).bfloat16()[:, :inputs]
    wanted = nn.functional.linear(x.float(), rounded.float(), plain.bias.float())
    torch.testing.assert_close(holder(x).float(), wanted, rtol=4 * BF16_STEP, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linears_of_one_input_are_right_in_any_order_and_for_any_input(dtype: torch.dtype) -> None:
    attention = build("qwen2", dtype).model.layers[0].self_attn
    before = copy.deepcopy(attention)
    quicken(attention, int8=False)
    one, other = torch.randn(1, 3, 64).to(dtype), torch.randn(1, 5, 64).to(dtype)
    calls = [("k", one), ("v", other), ("q", one), ("q", one), ("v", one), ("k", one), ("k", one), ("q", other)]
    for letter, x in calls:
        got, wanted = (getattr(module, f"{letter}_proj")(x) for module in (attention, before))
        torch.testing.assert_close(got, wanted, rtol=2 * BF16_STEP if dtype is torch.bfloat16 else 1e-5, atol=1e-5)
    for letter in "qkv":
        quick, plain = (getattr(module, f"{letter}_proj") for module in (attention, before))
        assert torch.equal(quick.weight, plain.weight)
        assert torch.equal(quick.bias, plain.bias)


def test_after_a_pass_no_activation_is_kept() -> None:
    attention = build("llama").model.layers[0].self_attn
    quicken(attention, int8=False)
    x = torch.randn(1, 3, 64)
    kept = [weakref.ref(x), *(weakref.ref(getattr(attention, f"{letter}_proj")(x)) for letter in "qkv")]
    del x
    assert [reference() for reference in kept] == [None] * 4


def test_norms_are_replaced_by_what_they_compute_and_not_by_their_names() -> None:
    for name, norms in {
        "llama": 5,
        "qwen3": 9,
        "mixtral": 5,
        "gpt-oss": 5,
        "phi3": 5,
        "gemma2": 0,
        "gemma3": 0,
    }.items():
        model = build(name)
        quicken(model, int8=False)
        assert count_of(model, RmsNorm) == norms, name
    others = nn.Sequential(nn.LayerNorm(8, bias=False), nn.LayerNorm(8), nn.BatchNorm1d(8), nn.PReLU(8))
    kinds = [type(module) for module in others]
    quicken(others, int8=False)
    assert [type(module) for module in others] == kinds


def test_a_second_call_changes_nothing() -> None:
    model = build("llama, tied", torch.bfloat16)
    quicken(model, int8=False)
    modules = dict(model.named_modules())
    quicken(model, int8=False)
    again = dict(model.named_modules())
    assert modules.keys() == again.keys()
    assert all(again[name] is module for name, module in modules.items())
    assert count_of(model, Part) == 2 * 5


def test_linears_that_are_something_more_are_left_alone() -> None:
    class Special(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, args, output: output * 2)
    special = Special(4, 4)
    holder = nn.ModuleDict({"q_proj": special, "k_proj": hooked, "v_proj": nn.Linear(4, 4)}).bfloat16()
    quicken(holder, int8=False)
    assert holder["q_proj"] is special
    assert holder["k_proj"] is hooked


@needs_bf16
def test_no_weight_is_kept_twice_but_the_embedding_that_is_also_the_head() -> None:
    model = build("llama, tied", torch.bfloat16)
    weights = {name: weakref.ref(parameter) for name, parameter in model.named_parameters()}
    quicken(model, int8=False)
    gc.collect()
    left = {name for name, reference in weights.items() if reference() is not None}
    assert left == {name for name, _ in model.named_parameters()}
    assert "model.embed_tokens.weight" in left
    assert not any("proj" in name for name in left)
    assert model.get_input_embeddings()(torch.tensor([[5]])).shape == (1, 1, 64)


@needs_bf16
@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells which files are mapped")
def test_the_file_of_weights_does_not_stay_in_memory(tmp_path: Path) -> None:
    build("llama, tied", torch.bfloat16).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval().requires_grad_(False)
    assert str(tmp_path) in MAPS.read_text()
    ids = torch.randint(3, VOCABULARY, (1, 8))
    quicken(model, int8=False)
    gc.collect()
    assert str(tmp_path) not in MAPS.read_text()
    assert logits(model, ids).isfinite().all()


@needs_bf16
def test_the_head_is_as_exact_with_int8_as_without() -> None:
    model = build("llama", torch.bfloat16)
    wanted = model.lm_head.weight.clone()
    quicken(model, int8=True)
    assert torch.equal(model.lm_head.weight, wanted)


def test_a_trained_model_in_float32_says_the_same(tiny_model_dir: Path) -> None:
    # Not loaded by the engine, which quickens what it loads: that would be compared with itself.
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval().requires_grad_(False)
    quick = copy.deepcopy(plain)
    quicken(quick, int8=True)
    assert count_of(plain, Part) == 0 < count_of(quick, Part)
    ids = torch.randint(0, plain.config.vocab_size, (1, 50))
    torch.testing.assert_close(logits(quick, ids), logits(plain, ids), rtol=1e-5, atol=1e-5)
