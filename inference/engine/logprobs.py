"""Log-probabilities of what was chosen and of the likeliest tokens, as the model gave them, before any parameter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.engine.candidates import blocks, likeliest, sorted_row
from inference.types import Logprob


def tell(logits: Tensor, tokens: Tensor, asked: Sequence[int], width: int) -> Tensor:
    """A line a row, for read(): (L, 2 + 2n) float64, n the largest of `asked`, the numbers of alternatives.

    logits (L, V), tokens (L,) int64. Looks for the alternatives among the `width` likeliest; 0 looks at all.
    """
    most = min(max(asked), logits.shape[1])
    ids, known = tokens[:, None], torch.zeros_like(tokens)[:, None]
    if most and width:
        head = likeliest(logits, width)
        ids = torch.cat((ids, head.ids[:, :most]), dim=1)
        known = (head.known[:, :most] | head.whole).sum(-1, keepdim=True)
    elif most:
        ids = torch.cat((ids, torch.cat([sorted_row(row).ids[:, :most] for row in logits])), dim=1)
        known += most
    pairs = zip(blocks(logits), blocks(ids), strict=True)
    logs = torch.cat([block.float().log_softmax(-1).gather(1, wanted) for block, wanted in pairs])
    return torch.cat((known.double(), logs.double(), ids[:, 1:].double()), dim=1)


def read(line: Sequence[float], token: int, asked: int) -> Logprob | None:
    """The Logprob of a line of tell(); None where `width` was too small for that row. -inf is no alternative."""
    known, logprob, *rest = line
    most = len(rest) // 2
    logs, ids = rest[:most], rest[most:]
    if known < min(asked, most):
        return None
    pairs = zip(ids[:asked], logs[:asked], strict=True)
    return Logprob(token_id=token, logprob=logprob, top=tuple((int(i), log) for i, log in pairs if log > -float("inf")))
