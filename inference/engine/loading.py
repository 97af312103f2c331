"""Loads a model from a folder of safetensors, offline and without running any code that came with the weights."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read by transformers when it is imported: no request to a hub, no compiled kernels from one.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["USE_HUB_KERNELS"] = "NO"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from inference.engine import revision
from inference.engine.cpu import quicken
from inference.engine.placing import Checkpoint, LoadError, device_map
from inference.engine.progress import told

__all__ = ["LoadError", "LoadedModel", "Progress", "load", "set_threads"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

# Called with a phase, "tokenizer", "weights" or "ready", and the share of it that is done, from 0 to 1.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory and what belongs to it. `template_hash` names the chat template, `revision` the weights.

    device is where token ids go; a large model's layers may lie on others too. longest_token is the most characters
    that one token can stand for.
    """

    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerFast = field(repr=False)
    context_length: int
    eos_ids: frozenset[int]
    device: torch.device
    dtype: torch.dtype
    revision: str
    template_hash: str
    longest_token: int
    # Encoding switches a flag inside the tokenizer while it reads text in which control tokens are only text; without
    # this lock another thread could encode in that moment and take a user's `<|im_start|>` for a real one.
    tokenizer_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


def load(
    directory: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    context_length: int | None = None,
    on_progress: Progress | None = None,
) -> LoadedModel:
    """Load the model in `directory`. Blocks: 2 s for the default model after 2 s of imports, minutes for a large one.

    device: "auto" (CUDA where torch sees a GPU), "cpu", "cuda", "cuda:1". With "auto" and "cuda", a model that is too
    large for one GPU is laid over all. dtype: "auto" is bfloat16, on CPUs too, where float32 is slower. context_length:
    None is the model's own; a longer one is refused. on_progress is called as each phase is reached, and now and then
    while weights are read. Raises LoadError.
    """
    tell = on_progress or (lambda phase, share: None)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    checkpoint = Checkpoint.read(directory)
    tell("tokenizer", 0.0)
    tokenizer = _load_tokenizer(directory)
    tell("weights", 0.0)
    target = _device(device)
    with told(lambda share: tell("weights", share)):
        model = _load_weights(checkpoint, target, _dtype(dtype))
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        context_length=_context_length(model, context_length),
        eos_ids=_eos_ids(model, tokenizer),
        device=model.get_input_embeddings().weight.device,
        dtype=next(weight.dtype for weight in model.parameters() if weight.dtype in DTYPES.values()),
        revision=revision.read(directory),
        template_hash=hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16],
        longest_token=max(map(len, tokenizer.get_vocab())),
    )
    tell("ready", 1.0)
    return loaded


def set_threads(count: int) -> None:
    """How many CPU threads the model computes with; 0 takes every core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(count or cores)


def _load_weights(checkpoint: Checkpoint, target: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    places: dict[str, Any] = {}
    if target.type == "cuda":
        gpus = range(torch.cuda.device_count()) if target.index is None else [target.index]
        free = [torch.cuda.mem_get_info(gpu)[0] for gpu in gpus]
        places = device_map(checkpoint.loaded_bytes(dtype), free, gpus)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            checkpoint.directory,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **places,
            **checkpoint.quantization(),
        )
    except ImportError as error:
        raise checkpoint.missing(str(error)) from error
    except (ValueError, RuntimeError) as error:
        if checkpoint.method is None and not places:
            raise
        kind = f"quantised ({checkpoint.method})" if checkpoint.method else "not quantised"
        raise LoadError(f"{checkpoint.directory}, {kind}, cannot be loaded here: {error}") from error
    if places and {"cpu", "disk"} & {str(place) for place in getattr(model, "hf_device_map", {}).values()}:
        raise LoadError(f"{checkpoint.directory} does not fit on the GPUs: some layers are left over.")
    # What is missing would be random numbers.
    if missing := sorted(found["missing_keys"]):
        raise LoadError(f"{checkpoint.directory} lacks {len(missing)} weights of the model, {missing[0]} among them.")
    model.eval().requires_grad_(False)
    if checkpoint.method is None:
        quicken(model, int8=False)
    loaded: PreTrainedModel = model
    return loaded


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise LoadError(f"{directory} has no tokenizer.json; slow tokenizers are not supported.")
    if not tokenizer.chat_template:
        raise LoadError(f"{directory} has no chat template: it is not a model to chat with.")
    return tokenizer


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LoadError(f"The device {name} was asked for, but torch {torch.__version__} sees no GPU here.")
    return device


def _dtype(name: str) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16
    if name not in DTYPES:
        raise LoadError(f"The dtype {name!r} is unknown; it is one of auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def _context_length(model: PreTrainedModel, asked: int | None) -> int:
    positions = int(model.config.get_text_config().max_position_embeddings)
    if asked is not None and asked > positions:
        raise LoadError(f"A context of {asked} tokens was asked for, but the model has positions for {positions}.")
    return asked or positions


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Every id that ends an answer: the generation's (often several), the configuration's and the tokenizer's."""
    ids: list[Any] = [tokenizer.eos_token_id]
    for config in (model.generation_config, model.config):
        found = getattr(config, "eos_token_id", None)
        ids += found if isinstance(found, list) else [found]
    return frozenset(token for token in ids if isinstance(token, int))
