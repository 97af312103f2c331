"""The flash attention that torch brings, for keys and values in blocks.

Two ways to let decoding requests read a block pool, without a copy of it:

- BY_TABLE: the kernel follows the block tables itself. In torch 2.12 and later, where the flash attention that is
  installed can (`block_table` of `torch.nn.attention.varlen.varlen_attn`).
- BY_BLOCK: each block of each request is a sequence of its own, which the kernel finds by offset and length; the parts
  are put together by their log-sum-exp. Any torch from 2.5 on. A request is cut at the same places whatever its
  neighbours are, and also where it alone would leave most of a GPU idle.

What neither fits is gathered, and attended by torch's plain attention. Which of them a build and a GPU really have is
found by trying (`trial`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from inference.engine.attention import Rule

LARGEST_WIDTH = 256
DTYPES = (torch.bfloat16, torch.float16)
# The least compute capability of the GPUs that flash attention is built for.
LEAST_CAPABILITY = (8, 0)


class Way(Enum):
    """How decoding requests read the block pool."""

    BY_TABLE = "block tables"
    BY_BLOCK = "one sequence a block"
    GATHERED = "gathered"


@dataclass(frozen=True, slots=True)
class Spans:
    """Sequences for a kernel. cu_queries (N + 1,) int32: where the queries of each begin and end; keys (N + 1,) int32:
    where its keys begin; used (N,) int32: how many they are. longest: of queries and of keys."""

    cu_queries: Tensor
    keys: Tensor
    used: Tensor
    longest_query: int
    longest_key: int


# query (T, H, D), key and value (K, Hkv, D), spans, rule -> out (T, H, D), log-sum-exp (H, T) float32. Causal: queries
# stand at the end of their sequence. Cap and sinks are not the kernel's.
Flash = Callable[[Tensor, Tensor, Tensor, Spans, Rule], tuple[Tensor, Tensor]]


def flash(query: Tensor, key: Tensor, value: Tensor, spans: Spans, rule: Rule) -> tuple[Tensor, Tensor]:
    """A Flash, by the operation that varlen_attn calls; that one takes `seqused_k` from torch 2.12 on only."""
    # One query sees all keys: told so, the kernel reads a key head once for all the query heads that share it.
    causal = spans.longest_query > 1
    left = -1 if rule.window is None else rule.window - 1
    out: Any = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        spans.cu_queries,
        spans.keys,
        spans.longest_query,
        spans.longest_key,
        0.0,
        causal and rule.window is None,
        False,
        scale=rule.scaling,
        window_size_left=left,
        window_size_right=0 if causal or rule.window is not None else -1,
        seqused_k=spans.used,
    )
    return out[0], out[1]


def by_table(
    query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, *, lengths: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """One query (H, D) a request, over the keys and values (blocks, size, Hkv, D) that its table lists. Returns what a
    Flash does. One split, so that the sums of a request do not depend on its neighbours."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    count = len(query)
    out: Any = varlen_attn(
        query,
        keys,
        values,
        torch.arange(count + 1, dtype=torch.int32, device=query.device),
        None,
        1,
        tables.shape[1] * keys.shape[1],
        return_aux=AuxRequest(lse=True),
        scale=rule.scaling,
        window_size=(-1, -1) if rule.window is None else (rule.window - 1, 0),
        enable_gqa=query.shape[1] != keys.shape[2],
        seqused_k=lengths,
        block_table=tables,
        num_splits=1,
    )
    return out[0], out[1]


def missing_for_tables() -> list[str]:
    """Which parameters the installed torch's varlen_attn lacks for BY_TABLE."""
    try:
        from torch.nn.attention import varlen
    except ImportError:
        return ["torch.nn.attention.varlen"]
    wanted = ("return_aux", "scale", "window_size", "enable_gqa", "seqused_k", "block_table", "num_splits")
    return [name for name in wanted if name not in inspect.signature(varlen.varlen_attn).parameters]


def fits(key_width: int, value_width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether flash attention is built for keys and values like these."""
    if device.type != "cuda" or dtype not in DTYPES or torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return False
    return key_width == value_width <= LARGEST_WIDTH and key_width % 8 == 0
