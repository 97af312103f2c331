"""Counting the tokens of an answer that another engine sampled.

Servers that tell their usage with each chunk are exact at any moment; of the others each chunk with text counts as one
token until the usage at the end says how many there were. A usage that cannot be right is not believed: from then on
the chunks count.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

log = logging.getLogger("worker")

# An end token, and what a server samples beyond the limit before it notices.
MARGIN_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Usage:
    """A server's figures; None where it tells none."""

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None


class Meter:
    """Of one request. most_tokens: what it may sample; most_prompt_tokens: what its prompt cannot have more of."""

    def __init__(self, *, most_tokens: int, most_prompt_tokens: int) -> None:
        self._most = most_tokens + MARGIN_TOKENS
        self._most_prompt_tokens = most_prompt_tokens
        self._counted = 0
        self._chunks = 0
        self._told: int | None = None
        self._prompt_tokens: int | None = None
        self._cached_tokens = 0
        self.believes = True

    def take(self, usage: object, *, has_text: bool) -> int:
        """How many tokens a chunk stands for; its usage, if it has one, is that of the answer up to here."""
        self._chunks += has_text
        before = self._counted
        told = self._completion(usage)
        if told is not None:
            self._told = told
            self._counted = max(before, told)
        elif has_text and (self._told is None or not self.believes):
            self._counted += 1
        return self._counted - before

    @property
    def completion_tokens(self) -> int:
        """The server's last word, where it is believed; else what was counted."""
        return self._told if self.believes and self._told is not None else self._counted

    @property
    def prompt_tokens(self) -> int | None:
        return self._prompt_tokens

    @property
    def cached_tokens(self) -> int:
        return self._cached_tokens

    def _completion(self, usage: object) -> int | None:
        """The completion tokens of a plausible usage, whose prompt's figures are kept. None for any other."""
        if usage is None or not self.believes:
            return None
        figures = _figures(usage)
        if figures is None or not self._plausible(figures):
            self.believes = False
            self._prompt_tokens, self._cached_tokens = None, 0
            log.warning("implausible usage of an engine elsewhere; its chunks are counted instead")
            return None
        if figures.prompt_tokens is not None:
            self._prompt_tokens = figures.prompt_tokens
        self._cached_tokens = figures.cached_tokens or self._cached_tokens
        return figures.completion_tokens

    def _plausible(self, figures: Usage) -> bool:
        """Whether it can be true: no less than before, none without text, no more than was asked for."""
        completion, prompt, cached = figures.completion_tokens, figures.prompt_tokens, figures.cached_tokens
        if completion is not None:
            least = max(self._told or 0, 1 if self._chunks else 0)
            if not least <= completion <= self._most:
                return False
        if prompt is not None and not 0 <= prompt <= self._most_prompt_tokens:
            return False
        return cached is None or 0 <= cached <= (prompt or 0)


def _figures(usage: object) -> Usage | None:
    """None for what has another shape."""
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    values = (
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        details.get("cached_tokens") if isinstance(details, dict) else None,
    )
    if not all(value is None or type(value) is int for value in values):
        return None
    return Usage(*values)
