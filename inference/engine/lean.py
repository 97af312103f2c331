"""Decoder layers of the commonest kind with less between their products.

At one row, half of a pass through transformers' modelling code is calls from module to module and small operations. A
layer of two RMS norms, plain attention with rotary positions and a gated MLP, whose linears are `cpu`'s, is computed
here by one function: queries and keys are turned at once, and heads stay where the product has put them. The modules
keep their places, and passes without a layout of ours go through their own code.

What a layer does is found by trying, and not by its name: the model reads a few tokens in both ways, and keeps its own
where the results differ. Invariant: as in `cpu`, numbers in float32 are those of before up to the order of a sum, and
in bfloat16 up to the rounding of the last places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from inference.engine.attention import Layout, Rule, attend_chunk
from inference.engine.cpu import Joint, Part, RmsNorm
from inference.engine.probing import read_packed

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
TRIED_TOKENS = 7
# Of the logits' norm, what the two ways may differ by: far more than rounding does, far less than another rotation.
DIFFERENCE = {torch.float32: 1e-4}
ROUNDED_DIFFERENCE = 0.05


def slim(model: PreTrainedModel) -> int:
    """Let the layers that are of this kind be computed here; returns how many. Idempotent. Blocks for two short passes.

    For a model that `cpu.quicken` has seen, on one device.
    """
    found = [(module, parts) for module in model.modules() if (parts := _Parts.of(module)) is not None]
    if not found:
        return 0
    plain = [(module, parts) for module, parts in found if "forward" not in module.__dict__]
    before, rules = _try(model)
    angles = _Angles()
    for module, parts in plain:
        module.__dict__["forward"] = _Layer(module.forward, parts, rules[parts.index], angles)
    after, _ = _try(model)
    most = DIFFERENCE.get(before.dtype, ROUNDED_DIFFERENCE)
    if not (after - before).float().norm() <= most * before.float().norm():
        for module, _ in plain:
            del module.__dict__["forward"]
        return 0
    return len(found)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a layer of this kind is made of. width: of a head."""

    first_norm: RmsNorm
    heads: Joint
    out: nn.Module
    second_norm: RmsNorm
    gates: Joint
    activation: nn.Module
    down: nn.Module
    index: int
    width: int

    @classmethod
    def of(cls, module: nn.Module) -> _Parts | None:
        """None where the module is another kind of layer, or none."""
        parts = dict(module.named_children())
        if set(parts) != LAYER:
            return None
        attention, mlp = dict(parts["self_attn"].named_children()), dict(parts["mlp"].named_children())
        if set(attention) != ATTENTION or set(mlp) != MLP:
            return None
        first, second = parts["input_layernorm"], parts["post_attention_layernorm"]
        query, gate = attention["q_proj"], mlp["gate_proj"]
        index, width = (getattr(parts["self_attn"], name, None) for name in ("layer_idx", "head_dim"))
        if not (isinstance(first, RmsNorm) and isinstance(second, RmsNorm)):
            return None
        if not (isinstance(query, Part) and isinstance(gate, Part) and isinstance(index, int)):
            return None
        if not isinstance(width, int) or query.joint.sizes[1] != query.joint.sizes[2]:
            return None
        out, down = attention["o_proj"], mlp["down_proj"]
        return cls(first, query.joint, out, second, gate.joint, mlp["act_fn"], down, index, width)


class _Angles:
    """Cosines and signed sines of a pass, as all its layers want them: (T, 1, D)."""

    def __init__(self) -> None:
        self._given: tuple[Tensor, Tensor] | None = None
        self._made: tuple[Tensor, Tensor]

    def of(self, given: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Made anew for each pass. cos and sin are (1, T, D)."""
        if given is not self._given:
            cos, sin = given
            half = sin.shape[-1] // 2
            signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
            self._given, self._made = given, (cos[0, :, None], signed[0, :, None])
        return self._made


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """The forward function of one decoder layer; own is the one it had."""

    own: Callable[..., Tensor]
    parts: _Parts
    rule: Rule
    angles: _Angles

    def __call__(self, hidden_states: Tensor, **given: Any) -> Tensor:
        """(1, T, hidden) of the same, where `given` has a layout as `packed`."""
        packed: Layout | None = given.get("packed")
        if packed is None:
            return self.own(hidden_states, **given)
        my, (cos, sin) = self.parts, self.angles.of(given["position_embeddings"])
        x = hidden_states[0]
        asking, keeping, _ = (size // my.width for size in my.heads.sizes)
        heads = my.heads.kernel(_normed(x, my.first_norm)).view(len(x), -1, my.width)
        turned = heads[:, : asking + keeping]
        turned = torch.addcmul(turned * cos, turned.roll(my.width // 2, -1), sin)
        query, key, value = turned[:, :asking], turned[:, asking:], heads[:, asking + keeping :]
        mixed = packed.attend(my.index, query, key, value, self.rule)
        x = x + my.out(mixed.reshape(len(x), -1))
        gate, up = my.gates.kernel(_normed(x, my.second_norm)).split_with_sizes(my.gates.sizes, dim=-1)
        done: Tensor = x + my.down(my.activation(gate) * up)
        return done[None]


def _normed(x: Tensor, norm: RmsNorm) -> Tensor:
    return functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


@dataclass
class _Alone:
    """One prompt without a cache, which notes by which rule each layer attends."""

    positions: Tensor
    rules: dict[int, Rule] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        self.rules[layer] = rule
        return attend_chunk(query, key, value, None, rule)


@torch.inference_mode()
def _try(model: PreTrainedModel) -> tuple[Tensor, dict[int, Rule]]:
    """Logits (TRIED_TOKENS, V), and the rules by layer."""
    places = torch.arange(TRIED_TOKENS)
    layout = _Alone(places[None])
    ids = (7 * places + 3) % model.config.get_text_config().vocab_size
    return read_packed(model, ids, layout, None), layout.rules
