"""Makes a model built by transformers fast, with other modules in the place of its linears and RMS norms.

The modelling code stays as it is, and what it does not build from plain nn.Linear (experts, routers, quantised layers)
is left alone. Linears that are given the same input (q, k and v; gate and up) are one matrix product. On a CPU, the
bfloat16 weights lie as oneDNN's kernels read them, so that no call reorders them: two cores take half to three quarters
of the time for 1 to 16 rows, and a little less for 256. On a GPU, a decoding step is hundreds of small kernels: one for
a norm in the place of six.

Invariants: in float32 and float16 each number is computed as before, up to the order of a sum; in bfloat16 a result
differs by the rounding of the last place. Each weight is kept once: the plain one is let go when it is packed, but
for an output head that is tied to the embedding, which reads rows that a packed weight does not have.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

# Siblings that each get the same input, by the names under which transformers' models know them.
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# oneDNN chooses a layout with a number of rows in mind; at the default model's shapes it is the same for 1 to 256.
PACKED_FOR_ROWS = 8
# Up to so many rows, reading half the bytes outweighs the int8 kernel's slower arithmetic.
INT8_ROWS = 4
# _weight_int8pack_mm reads past the end of rows of another length, and may crash the process.
INT8_BLOCK = 32


def quicken(model: nn.Module, *, int8: bool) -> None:
    """Replace what can be computed faster, in place. For inference alone: what is replaced takes no gradient, cannot be
    saved or moved, and is no longer among model.parameters(). Idempotent; does nothing to a model on several devices,
    whose modules move their inputs from one to the other.

    int8 rounds bfloat16 weights on a CPU, but the head's, to 8 bits a number, with a scale for each output: faster for
    up to INT8_ROWS rows, at half as much memory again, and other answers. For the head it is no faster.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1 or not {device.type for device in devices} <= {"cpu", "cuda"}:
        return
    before = _numbers(model)
    head = getattr(model, "lm_head", None)
    for module in list(model.modules()):
        for names in SAME_INPUT:
            _join(module, names, int8)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and _is_plain_linear(child) and _is_packable(child.weight):
                setattr(module, name, Linear(_kernel(child.weight, child.bias, int8=int8 and child is not head)))
            elif (eps := _rms_norm_eps(child)) is not None:
                setattr(module, name, RmsNorm(child.get_parameter("weight"), eps))
    if devices == {torch.device("cpu")} and _numbers(model) < before / 2:
        _leave_the_file(model)


class Kernel(Protocol):
    """x @ weight.T + bias for x of shape (..., in), weight (out, in)."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Plain:
    """The weight as it was: for dtypes and processors that packing does not help."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Packed:
    """The weight as oneDNN's kernels read it, in blocks."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """A plain copy, made anew."""
        plain: Tensor = self._packed.to_dense()
        return plain

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return product


class Int8:
    """The weight rounded to 8 bits, and packed for more than INT8_ROWS rows.

    What is packed is rounded as well, so that an answer does not depend on how many others grow beside it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scales = (weight.float().abs().amax(1) / 127).clamp_(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
        self._rounded = (weight.float() / scales.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        self._scales = scales
        self._many = Packed((self._rounded.float() * scales.float()[:, None]).bfloat16(), bias)
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        return self._many.weight

    def __call__(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if x.numel() > INT8_ROWS * width:
            return self._many(x)
        rows = x.reshape(-1, width).contiguous()
        product = torch._weight_int8pack_mm(rows, self._rounded, self._scales).view(*x.shape[:-1], -1)
        return product if self.bias is None else product + self.bias


class Linear(nn.Module):
    """One linear. weight and bias are there for modelling code that looks at them."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    @property
    def weight(self) -> Tensor:
        return self.kernel.weight

    @property
    def bias(self) -> Tensor | None:
        return self.kernel.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel(x)


class Joint:
    """The kernel of several linears. Whoever is called first computes all; the others fetch their part for that input.

    A part is handed out once, and with the last one the input is let go: nothing is kept between layers. Not for two
    threads at once, nor for an input that is changed in place between the calls.
    """

    def __init__(self, kernel: Kernel, sizes: Sequence[int]) -> None:
        self.kernel = kernel
        self.sizes = list(sizes)
        self._input: Tensor | None = None
        self._parts: dict[int, Tensor] = {}

    def part(self, x: Tensor, place: int) -> Tensor:
        if x is not self._input or place not in self._parts:
            self._input = x
            self._parts = dict(enumerate(self.kernel(x).split_with_sizes(self.sizes, dim=-1)))
        part = self._parts.pop(place)
        if not self._parts:
            self._input = None
        return part


class Part(nn.Module):
    """One of the linears that share a Joint."""

    def __init__(self, joint: Joint, place: int) -> None:
        super().__init__()
        self.joint = joint
        self._place = place

    @property
    def weight(self) -> Tensor:
        return self.joint.kernel.weight.split_with_sizes(self.joint.sizes)[self._place]

    @property
    def bias(self) -> Tensor | None:
        bias = self.joint.kernel.bias
        return None if bias is None else bias.split_with_sizes(self.joint.sizes)[self._place]

    def forward(self, x: Tensor) -> Tensor:
        return self.joint.part(x, self._place)


class RmsNorm(nn.Module):
    """Root mean square normalisation (https://arxiv.org/abs/1910.07467) by torch's own function."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.variance_epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)


def _numbers(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _leave_the_file(model: nn.Module) -> None:
    """Copy what is left out of the mapped file of weights. While one tensor lies there, all that was read from it for
    packing stays resident: for the default model 269 MB, for the sake of an embedding of 57 MB."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def _join(module: nn.Module, names: Sequence[str], int8: bool) -> None:
    """Give the linears of these names one kernel, if the module has all of them and they are of one kind."""
    found = [getattr(module, name, None) for name in names]
    linears = [linear for linear in found if isinstance(linear, nn.Linear) and _is_plain_linear(linear)]
    if len(linears) < len(names):
        return
    if len({(linear.in_features, linear.weight.dtype, linear.bias is None) for linear in linears}) > 1:
        return
    weight = torch.cat([linear.weight.detach() for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias.detach() for linear in linears])
    joint = Joint(_kernel(weight, bias, int8=int8), [linear.out_features for linear in linears])
    for place, name in enumerate(names):
        setattr(module, name, Part(joint, place))


def _kernel(weight: Tensor, bias: Tensor | None, *, int8: bool) -> Kernel:
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if not _is_packable(weight):
        return Plain(weight, bias)
    return Int8(weight, bias) if int8 and weight.shape[1] % INT8_BLOCK == 0 else Packed(weight, bias)


def _is_packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_plain_linear(module: nn.Module) -> bool:
    """Neither of a class derived from it, which may compute something else, nor with hooks, which would be lost."""
    return type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks


def _rms_norm_eps(module: nn.Module) -> float | None:
    """The epsilon of a module that computes what RmsNorm does, found by trying: names do not tell (Gemma's norms
    multiply by 1 + weight, others subtract a mean)."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    own = dict(module.named_parameters())
    if isinstance(module, RmsNorm) or not isinstance(eps, float) or list(own) != ["weight"] or own["weight"].dim() != 1:
        return None
    if len(inspect.signature(module.forward).parameters) != 1:
        return None
    chance = torch.Generator().manual_seed(0)
    norm = copy.deepcopy(module).cpu().float()
    weight = torch.randn(own["weight"].shape, generator=chance)
    norm.weight = nn.Parameter(weight, requires_grad=False)
    # The smallest rows are those of which epsilon is the larger part.
    rows = torch.randn(4, len(weight), generator=chance) * torch.tensor([[eps**0.5], [0.1], [1.0], [100.0]])
    wanted = functional.rms_norm(rows, weight.shape, weight, eps)
    return eps if torch.allclose(norm(rows), wanted, rtol=1e-5, atol=1e-6) else None
