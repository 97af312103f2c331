"""transformers' attention interface, for passes over a KV cache of ours.

Everything in a decoder but attention treats tokens one by one, so a pass needs no padding: input_ids has shape (1, T),
and transformers' modelling code calls `attend` here with queries (1, H, T, D) and the new keys and values
(1, Hkv, T, D). The pass's layout comes with each call: it writes them to the KV cache, and lets each token see the keys
of its own request alone (`slot_attention`, `paged_attention`).

    AttentionInterface: https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

IMPLEMENTATION = "lambda_chat"
# From so many requests on, two products for all of them are faster on a CPU than the fused kernel, which makes two
# small ones for each head of each request: 0.66 ms a layer against 1.74 for 32 requests of 150 tokens, on one core.
PRODUCTS_FROM = 4
# So is a small chunk of a prompt behind others, by a quarter. The scores of a large one are more than the caches hold.
PRODUCT_SCORES = 1 << 16


class Rule(NamedTuple):
    """How a layer attends. Few models have a cap on scores (Gemma 2) or sinks, which take a share of each softmax.

    window: how many keys a token sees, its own included; None for all.
    """

    scaling: float | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None  # (H,)

    @property
    def plain(self) -> bool:
        """Whether the fused kernel computes it."""
        return self.softcap is None and self.sinks is None


class Layout(Protocol):
    """One pass: which tokens are read, where their keys and values go, and which of them each token sees."""

    @property
    def positions(self) -> Tensor:
        """Shape (1, T): each token's place in its request."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """Keep key (T, Hkv, D) and value (T, Hkv, Dv), and return (T, H, Dv) for query (T, H, D)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, start + count) of the request in `slot`."""

    slot: int
    start: int
    count: int

    def low(self, window: int | None) -> int:
        """The first position that the first of its tokens sees."""
        return 0 if window is None else max(0, self.start - window + 1)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. Returns (1, T, H, Dv). Only for passes that carry a layout."""
    if packed is None:
        raise RuntimeError("a forward pass of a packed model needs its layout")
    rule = Rule(scaling, sliding_window, softcap, s_aux)
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    return packed.attend(module.layer_idx, query, key, value, rule)[None], None


def attend_chunk(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: Rule) -> Tensor:
    """(count, H, Dv) for a request's queries (count, H, D), keys and values (length, Hkv, D); mask of `chunk_mask`."""
    asked, seen, carried = (part[None].transpose(1, 2) for part in (queries, keys, values))
    repeats = asked.shape[1] // seen.shape[1]
    if rule.plain and mask is not None and keys.device.type == "cpu" and mask.numel() <= PRODUCT_SCORES:
        # Queries that share a key head stand below each other: no key is repeated.
        folded = asked.reshape(1, seen.shape[1], -1, asked.shape[-1])
        out = step_by_step(folded, seen.contiguous(), carried.contiguous(), mask.repeat(repeats, 1), rule)
        out = out.reshape(1, asked.shape[1], -1, out.shape[-1])
    elif rule.plain:
        out = functional.scaled_dot_product_attention(
            asked, seen, carried, attn_mask=mask, is_causal=mask is None, scale=rule.scaling, enable_gqa=True
        )
    else:
        count = asked.shape[2]
        if mask is None:
            mask = torch.full((count, count), torch.finfo(asked.dtype).min, device=asked.device).triu(1).to(asked.dtype)
        sinks = None if rule.sinks is None else rule.sinks.view(1, -1, 1, 1)
        seen, carried = seen.repeat_interleave(repeats, dim=1), carried.repeat_interleave(repeats, dim=1)
        out = step_by_step(asked, seen, carried, mask, rule._replace(sinks=sinks))
    return out[0].transpose(0, 1)


def chunk_mask(part: Segment, window: int | None, *, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Shape (count, keys), keys from `low` on; None where plain causality from position 0 says it all."""
    low, high = part.low(window), part.start + part.count
    if part.start == 0 and (window is None or high <= window):
        return None
    queries = torch.arange(part.start, high, device=device)[:, None]
    keys = torch.arange(low, high, device=device)
    seen = keys <= queries
    if window is not None:
        seen &= keys > queries - window
    return additive(seen, dtype)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to be added to scores. Booleans are turned into numbers by the CPU kernel, in each layer anew."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def attend_batch(asked: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: Rule) -> Tensor:
    """(B, H, Dv) for one query (B, H, D) a request, keys and values (B, length, Hkv, D), mask (B, 1, 1, length).

    The queries that share a key head stand where a prompt's tokens would: no key is repeated.
    """
    count, key_heads = len(asked), keys.shape[2]
    grouped = asked.view(count, key_heads, -1, asked.shape[-1])
    seen, carried = keys.transpose(1, 2), values.transpose(1, 2)
    if rule.plain and (count < PRODUCTS_FROM or keys.device.type != "cpu"):
        out = functional.scaled_dot_product_attention(grouped, seen, carried, attn_mask=mask, scale=rule.scaling)
    else:
        sinks = None if rule.sinks is None else rule.sinks.view(1, key_heads, -1, 1)
        # A product copies what does not lie in one piece, and its own way of copying is the slower one.
        out = step_by_step(grouped, seen.contiguous(), carried.contiguous(), mask, rule._replace(sinks=sinks))
    return out.reshape(count, asked.shape[1], -1)


def step_by_step(asked: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: Rule) -> Tensor:
    """Attention by plain products, in float32 between them. Sinks broadcast to (B, heads, queries, 1)."""
    scores = (asked @ keys.transpose(-1, -2)).float()
    scores *= rule.scaling if rule.scaling is not None else asked.shape[-1] ** -0.5
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is not None:
        scores += mask
    if rule.sinks is not None:
        scores = torch.cat([scores, rule.sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32)[..., : keys.shape[-2]]
    return weights.to(values.dtype) @ values


AttentionInterface.register(IMPLEMENTATION, attend)
