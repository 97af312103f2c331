"""Whether requests of a model can be read together, found by reading two short prompts in one pass.

`shapes_of` asks a model that is loaded; `obstacle` asks its config.json alone, with a model that has shapes and no
numbers, for operators who want to know before they load it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from inference.engine import attention, slot_attention
from inference.engine.attention import Layout, Rule, Segment
from inference.engine.placing import LoadError
from inference.engine.slots import LayerShape

# Where the lengths of a batch change what a position means, a neighbour would change the answer.
SHARED_POSITIONS = frozenset({"dynamic", "longrope"})
# What `attention` computes. Llama 4's chunked attention, for one, would show its difference in long prompts only.
LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
PROBE_TOKENS = 7
PROBE_DIFFERENCE = 0.3  # of the logits' norm; one that sees another request's tokens differs by about its whole norm


class NotPackable(Exception):
    """The model's requests have to be read one by one; the message says why."""


@torch.inference_mode()
def shapes_of(model: PreTrainedModel, *, device: torch.device, dtype: torch.dtype) -> list[LayerShape]:
    """What each layer's attention keeps, found by reading two short prompts in one pass. Raises NotPackable.

    Both have to come out as they do alone, so that what this module does not know about an architecture shows here.
    """
    prompts = _prompts(model, device)
    together, shapes = _read_together(model, prompts, dtype)
    for ids, other in zip(prompts, together, strict=True):
        one = model(ids[None], use_cache=False).logits[0, -1]
        if not (one - other).float().norm() <= PROBE_DIFFERENCE * one.float().norm():
            raise NotPackable("two requests in one pass change each other")
    return shapes


@torch.inference_mode()
def obstacle(directory: Path) -> str | None:
    """Why requests of the model in `directory` cannot be read together; None where they can, as far as its config.json
    tells. Blocks for a second or two, and needs no room for weights. Raises LoadError for what is no model to load."""
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False).eval()
    except (ValueError, ImportError, KeyError, AttributeError) as error:
        raise LoadError(f"{directory} holds no model that transformers can build: {error}") from error
    try:
        _read_together(model, _prompts(model, torch.device("meta")), torch.bfloat16)
    except NotPackable as error:
        return str(error)
    return None


def _prompts(model: PreTrainedModel, device: torch.device) -> list[Tensor]:
    config = model.config.get_text_config()
    places = torch.arange(min(PROBE_TOKENS, getattr(config, "max_position_embeddings", PROBE_TOKENS)), device=device)
    return [(7 * places + 11 * number + 3) % config.vocab_size for number in (0, 1)]


def _read_together(
    model: PreTrainedModel, prompts: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, list[LayerShape]]:
    """The last logits (2, V) of two prompts read in one pass, and what each layer keeps. Raises NotPackable."""
    config = model.config.get_text_config()
    if kinds := SHARED_POSITIONS & _rope_types(config):
        raise NotPackable(f"its positions ({', '.join(kinds)}) depend on the longest request")
    if others := {*(getattr(config, "layer_types", None) or ())} - LAYER_TYPES:
        raise NotPackable(f"some of its layers ({', '.join(sorted(others))}) are not attention over all or a window")
    count, device = len(prompts[0]), prompts[0].device
    probe = _Probe(_Made(), [Segment(number, 0, count) for number in (0, 1)], device, dtype)
    try:
        logits = read_packed(model, torch.cat(list(prompts)), probe, None)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise NotPackable(f"its code does not take a packed pass: {error}") from error
    if sorted(probe.shapes) != list(range(config.num_hidden_layers)):
        raise NotPackable("some of its layers carry a state that is not keys and values")
    return logits[[count - 1, 2 * count - 1]], [probe.shapes[index] for index in range(config.num_hidden_layers)]


def read_packed(model: PreTrainedModel, ids: Tensor, layout: Layout, wanted: Tensor | None) -> Tensor:
    """One pass over ids (T,) int64. Logits (len(wanted), V) of the tokens at the places `wanted`, or of all."""
    with _packed_attention(model):
        output = model(
            input_ids=ids[None],
            position_ids=layout.positions,
            use_cache=False,
            logits_to_keep=0 if wanted is None else wanted,
            packed=layout,
        )
    logits: Tensor = output.logits[0]
    return logits


@dataclass
class _Made:
    """Storage for one small pass."""

    tensors: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.tensors[index]


class _Probe(slot_attention.Packed):
    """A pass that notes what each layer is to store."""

    storage: _Made

    def __init__(self, storage: _Made, segments: Sequence[Segment], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(storage, segments, device, dtype)
        self.shapes: dict[int, LayerShape] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        heads = key.shape[1]
        self.shapes[layer] = LayerShape(heads, key.shape[-1], value.shape[-1], key.device, query.shape[1])
        keys, values = (part.new_zeros(2, PROBE_TOKENS, heads, part.shape[-1]) for part in (key, value))
        self.storage.tensors[layer] = keys, values
        return super().attend(layer, query, key, value, rule)


@contextmanager
def _packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Each layer asks the configuration which attention to call; other callers of the model find theirs unchanged."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = attention.IMPLEMENTATION
    try:
        yield
    finally:
        config._attn_implementation = before


def _rope_types(config: object) -> set[str]:
    """The kinds of rotary embedding, one for all layers or one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [part for part in parameters.values() if isinstance(part, dict)] or [parameters]
    return {str(part.get("rope_type", "default")) for part in nested}
