"""How much of a conversation, and how long an answer, an engine elsewhere is asked for.

The worker cannot count its tokens. So it sends what may well fit, and where the server refuses that as too long, sends
less: a shorter answer where that alone helps, otherwise without the oldest turns, by the server's own figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference import history
from inference.elsewhere.faults import TooLong
from inference.types import Turn

# More bytes than a token has in most texts: what is over this many a token would be refused anyway.
BYTES_PER_TOKEN = 8
# Of what the figures allow: the turns that stay may have shorter tokens than those that go.
CAREFUL = 0.95
# A template's own tokens, a preamble of its own and what it puts around a turn.
TEMPLATE_TOKENS = 4096
TURN_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Fit:
    """What is asked for. dropped: how many of the oldest turns were left out."""

    turns: Sequence[Turn]
    dropped: int
    max_tokens: int

    @property
    def most_prompt_tokens(self) -> int:
        """No tokenizer makes more tokens of them than bytes."""
        return history.size(self.turns) + TURN_TOKENS * len(self.turns) + TEMPLATE_TOKENS


def first(turns: Sequence[Turn], max_tokens: int, context_length: int) -> Fit:
    """The first try."""
    kept, dropped = history.cut(turns, context_length * BYTES_PER_TOKEN)
    return Fit(kept, dropped, min(max_tokens, context_length))


def is_sure(fit: Fit, context_length: int) -> bool:
    """Whether it fits whatever the tokenizer, unless the template has a preamble of more than an eighth of it all."""
    prompt_tokens = history.size(fit.turns) + TURN_TOKENS * len(fit.turns) + context_length // 8
    return prompt_tokens + fit.max_tokens <= context_length


def smaller(turns: Sequence[Turn], fit: Fit, refusal: TooLong, context_length: int) -> Fit | None:
    """The next try with the conversation `turns`; None where nothing can be left out any more.

    As for a model in this process, up to a quarter of the context is kept free for the answer.
    """
    limit = min(refusal.limit or context_length, context_length)
    room = limit - min(fit.max_tokens, limit // 4)
    if refusal.prompt_tokens is not None and refusal.prompt_tokens <= room:
        return _shorter(fit, limit - refusal.prompt_tokens)
    size_bytes = history.size(fit.turns)
    if refusal.prompt_tokens is not None:
        room_bytes = int(size_bytes * room / refusal.prompt_tokens * CAREFUL)
    else:
        # Nothing is known but that it is too much.
        room_bytes = min(size_bytes // 2, room * BYTES_PER_TOKEN // 2)
    kept, dropped = history.cut(turns, room_bytes)
    if dropped > fit.dropped:
        return Fit(kept, dropped, min(fit.max_tokens, limit - room))
    return _shorter(fit, limit - room) if refusal.prompt_tokens is None else None


def _shorter(fit: Fit, max_tokens: int) -> Fit | None:
    return replace(fit, max_tokens=max_tokens) if 0 < max_tokens < fit.max_tokens else None
