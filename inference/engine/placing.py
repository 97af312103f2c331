"""Where a checkpoint's weights go, and how those that are quantised are loaded. Reads headers only, no weights.

A model that one GPU has room for lies on it whole; a larger one is laid over all GPUs that are visible, some layers on
each, which take turns. Quantised checkpoints are left to transformers and the packages that their method needs. FP8 and
MXFP4 are turned into bfloat16 while they are loaded: their kernels would have to be fetched from a hub, compiled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import FineGrainedFP8Config, Mxfp4Config
from transformers.quantizers import AutoHfQuantizer

# Of the memory that is free on a GPU, what weights may take: keys, values and activations need the rest.
WEIGHTS_SHARE = 0.85
# Bytes of a number in a safetensors file, by the name of its type.
WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
FLOATS = ("F32", "F16", "BF16")
# What packages are called of which transformers says that they are missing, by the checkpoint's method.
PACKAGES = {
    "awq": "gptqmodel",
    "gptq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "aqlm": "aqlm",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
    "fbgemm_fp8": "fbgemm-gpu",
}


class LoadError(RuntimeError):
    """The folder holds no model that this engine can run; the message says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder's files say of its weights. method: how they are quantised, None for plain ones."""

    directory: Path
    config: dict[str, Any] = field(repr=False)
    method: str | None

    @classmethod
    def read(cls, directory: Path) -> Checkpoint:
        """Raises LoadError for a folder without a model in it."""
        if not (directory / "config.json").is_file():
            raise LoadError(
                f"{directory} holds no model: config.json is missing; fetch it with `manage.py models pull`."
            )
        if not any(directory.glob("*.safetensors")):
            raise LoadError(f"{directory} holds no safetensors; other formats of weights are not loaded.")
        config = json.loads((directory / "config.json").read_text())
        quantised = config.get("quantization_config")
        if not quantised:
            return cls(directory, config, None)
        method = str(quantised.get("quant_method", "bitsandbytes"))
        # Weights of a method that transformers does not know would be read as if they were plain.
        if not AutoHfQuantizer.supports_quant_method({"quant_method": method, **quantised}):
            raise LoadError(f"{directory} is quantised ({method}), which this version of transformers does not know.")
        return cls(directory, config, method)

    def loaded_bytes(self, dtype: torch.dtype) -> int:
        """How much memory the weights take once they are loaded in this dtype."""
        return sum(self._bytes(name, kind, count, dtype) for name, kind, count in self._tensors())

    def quantization(self) -> dict[str, Any]:
        """Arguments for from_pretrained."""
        if self.method == "fp8":
            kept = self.config.get("quantization_config", {}).get("modules_to_not_convert")
            return {"quantization_config": FineGrainedFP8Config(dequantize=True, modules_to_not_convert=kept)}
        if self.method == "mxfp4":
            return {"quantization_config": Mxfp4Config(dequantize=True)}
        return {}

    def missing(self, reason: str) -> LoadError:
        """For a package that transformers finds missing."""
        package = PACKAGES.get(self.method or "", self.method)
        return LoadError(
            f"{self.directory} is quantised ({self.method}), for which the package {package} is needed: {reason}"
        )

    def _bytes(self, name: str, kind: str, count: int, dtype: torch.dtype) -> int:
        if self.method is None and kind in FLOATS:
            return count * dtype.itemsize
        if self.method == "fp8" and kind.startswith("F8"):
            return 2 * count
        if self.method == "mxfp4" and kind == "U8" and name.endswith("blocks"):
            return 4 * count  # two numbers a byte
        return count * WIDTHS.get(kind, 1)

    def _tensors(self) -> Iterator[tuple[str, str, int]]:
        """Name, type and number of numbers of each tensor."""
        for path in self.directory.glob("*.safetensors"):
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            for name, tensor in header.items():
                if name != "__metadata__":
                    yield name, tensor["dtype"], math.prod(tensor["shape"])


def device_map(needed: int, free: Sequence[int], gpus: Sequence[int]) -> dict[str, Any]:
    """Arguments for from_pretrained that lay `needed` bytes on the emptiest of these GPUs, or over all of them.

    free: the free bytes of each. Raises LoadError where they are too little.
    """
    room = [int(WEIGHTS_SHARE * each) for each in free]
    if needed <= max(room):
        return {"device_map": {"": torch.device("cuda", gpus[room.index(max(room))])}}
    if needed > sum(room):
        have = "the GPU has" if len(gpus) == 1 else f"the {len(gpus)} GPUs together have"
        raise LoadError(
            f"The weights take {needed / 1e9:.0f} GB, and {have} {sum(free) / 1e9:.0f} GB free, of which weights may"
            f" take {WEIGHTS_SHARE:.0%}: a smaller model fits, or one in an engine elsewhere."
        )
    return {"device_map": "auto", "max_memory": dict(zip(gpus, room, strict=True))}
