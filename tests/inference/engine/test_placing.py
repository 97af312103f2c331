"""Large and quantised checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from inference.engine.engine import Engine
from inference.engine.loading import load
from inference.engine.placing import Checkpoint, LoadError, device_map
from inference.types import Sampling
from tests.inference.engine.conftest import finish
from tests.inference.engine.test_architectures import random_model

GB = 10**9
FP8_BLOCK = 32


@pytest.fixture
def copied(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def _declare(folder: Path, quantization: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_size_of_the_weights_is_known_before_they_are_loaded(tiny_model_dir: Path, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=dtype)
    wanted = sum(weight.nbytes for weight in model.parameters())
    assert Checkpoint.read(tiny_model_dir).loaded_bytes(dtype) == wanted


def test_a_model_that_fits_lies_on_one_gpu_and_a_larger_one_on_all() -> None:
    one, all_of_them = device_map(60 * GB, [80 * GB] * 2, [0, 1]), device_map(100 * GB, [80 * GB] * 2, [0, 1])
    assert one == {"device_map": {"": torch.device("cuda", 0)}}
    assert all_of_them["device_map"] == "auto"
    assert all_of_them["max_memory"] == {0: 68 * GB, 1: 68 * GB}
    assert device_map(GB, [20 * GB, 80 * GB], [2, 3]) == {"device_map": {"": torch.device("cuda", 3)}}


@pytest.mark.parametrize(
    ("free", "sentence"),
    [([80 * GB], "take 200 GB, and the GPU has 80 GB free"), ([80 * GB] * 2, "the 2 GPUs together have 160 GB free")],
)
def test_a_model_that_fits_nowhere_is_told_with_both_sizes(free: list[int], sentence: str) -> None:
    with pytest.raises(LoadError, match=sentence):
        device_map(200 * GB, free, range(len(free)))


@pytest.mark.parametrize(
    ("quantization", "sentence"),
    [
        ({"quant_method": "awq", "bits": 4}, r"quantised \(awq\), for which the package gptqmodel is needed"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            r"quantised \(bitsandbytes\), for which the package bitsandbytes is needed",
        ),
        ({"quant_method": "secret"}, r"quantised \(secret\), which this version of transformers does not know"),
    ],
)
def test_a_quantised_checkpoint_says_which_package_is_missing(
    copied: Path, quantization: dict[str, Any], sentence: str
) -> None:
    _declare(copied, quantization)
    with pytest.raises(LoadError, match=sentence):
        load(copied, device="cpu")


def test_fp8_weights_are_loaded_as_bfloat16(tiny_model_dir: Path, tmp_path: Path) -> None:
    """As DeepSeek-V3 and others publish them: a scale for each block of a weight."""
    model = random_model("llama", hidden_size=64, intermediate_size=96, vocab_size=512).to(torch.bfloat16)
    wanted = {name: weight.clone() for name, weight in model.state_dict().items()}
    shutil.copytree(tiny_model_dir, tmp_path, dirs_exist_ok=True)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [name for name in weights if "_proj" in name]:
        weights |= _eight_bits(name, weights[name])
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _declare(tmp_path, {"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]})
    checkpoint = Checkpoint.read(tmp_path)
    loaded = load(tmp_path, device="cpu")
    assert loaded.dtype is torch.bfloat16
    found = loaded.model.state_dict()
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=0.07, atol=0.01)
    assert checkpoint.loaded_bytes(torch.bfloat16) >= sum(weight.nbytes for weight in loaded.model.parameters())
    engine = Engine(loaded)
    assert len(finish(engine, engine.submit([5, 6, 7], Sampling(temperature=0, max_tokens=5, min_tokens=5)))[1]) == 5


def test_a_checkpoint_that_lacks_a_weight_is_not_filled_up_with_random_numbers(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"lacks 1 weights of the model, model.layers.1.mlp.down_proj.weight"):
        load(copied, device="cpu")


def _eight_bits(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, columns = (size // FP8_BLOCK for size in weight.shape)
    blocks = weight.float().view(rows, FP8_BLOCK, columns, FP8_BLOCK)
    scales = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
    rounded = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn).view(weight.shape)
    return {name: rounded, f"{name}_scale_inv": scales}
