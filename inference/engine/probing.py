"""Whether requests of a model can be read together, found by reading two short prompts in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.engine import attention, slot_attention
from inference.engine.attention import Layout, Rule, Segment
from inference.engine.slots import LayerShape

# Where the lengths of a batch change what a position means, a neighbour would change the answer.
SHARED_POSITIONS = frozenset({"dynamic", "longrope"})
PROBE_TOKENS = 7
PROBE_DIFFERENCE = 0.3  # of the logits' norm; one that sees another request's tokens differs by about its whole norm


class NotPackable(Exception):
    """The model's requests have to be read one by one; the message says why."""


@torch.inference_mode()
def shapes_of(model: PreTrainedModel, *, device: torch.device, dtype: torch.dtype) -> list[LayerShape]:
    """What each layer's attention keeps, found by reading two short prompts in one pass. Raises NotPackable.

    Both have to come out as they do alone, so that what this module does not know about an architecture shows here.
    """
    config = model.config.get_text_config()
    if kinds := SHARED_POSITIONS & _rope_types(config):
        raise NotPackable(f"its positions ({', '.join(kinds)}) depend on the longest request")
    count = min(PROBE_TOKENS, config.max_position_embeddings)
    prompts = [[(7 * place + 11 * number + 3) % config.vocab_size for place in range(count)] for number in (0, 1)]
    alone = [model(torch.tensor([ids], device=device), use_cache=False).logits[0, -1] for ids in prompts]
    probe = _Probe(_Made(), [Segment(number, 0, count) for number in (0, 1)], device, dtype)
    ids = torch.tensor([*prompts[0], *prompts[1]], device=device)
    try:
        together = read_packed(model, ids, probe, torch.tensor([count - 1, 2 * count - 1], device=device))
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise NotPackable(f"its code does not take a packed pass: {error}") from error
    if sorted(probe.shapes) != list(range(config.num_hidden_layers)):
        raise NotPackable("some of its layers carry a state that is not keys and values")
    for one, other in zip(alone, together, strict=True):
        if not (one - other).float().norm() <= PROBE_DIFFERENCE * one.float().norm():
            raise NotPackable("two requests in one pass change each other")
    return [probe.shapes[index] for index in range(config.num_hidden_layers)]


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
