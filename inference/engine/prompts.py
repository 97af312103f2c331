"""From a conversation to the token ids of a prompt that fits into the model's context.

Only the chat template writes control tokens. What a person typed is encoded as plain text, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerFast

from inference.engine.loading import LoadedModel
from inference.types import Turn


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids ready for the engine. `dropped_turns` counts the oldest messages left out; ids + max_tokens fit."""

    ids: tuple[int, ...]
    dropped_turns: int
    max_tokens: int


class PromptError(ValueError):
    """No prompt can be made of these turns; the message says why in one sentence.

    PromptError
    ├── PromptTooLong    the newest message alone is over the limit
    └── PromptRefused    the template or the text itself is at fault
    """


class PromptTooLong(PromptError):
    """The newest user turn does not fit. prompt_tokens is a lower bound where counting all of it would be dear."""

    def __init__(self, prompt_tokens: int, limit: int) -> None:
        super().__init__(f"The message takes {prompt_tokens} tokens, and the model has room for {limit}.")
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class PromptRefused(PromptError):
    """The model's chat template does not take these turns, or a turn is no valid Unicode text."""


def build(loaded: LoadedModel, turns: Sequence[Turn], max_tokens: int) -> Prompt:
    """The prompt for the next answer. Drops the oldest turns, never a leading system turn, until it fits.

    Up to a quarter of the context, but no more than max_tokens, is kept free for the answer. What is kept of a cut
    conversation begins with a user turn. Thread-safe; blocks, 0.1 s for 8,000 tokens. Raises PromptTooLong and
    PromptRefused.
    """
    if not turns:
        raise PromptRefused("There is no message to answer.")
    limit = loaded.context_length - min(max_tokens, loaded.context_length // 4)
    head = list(turns[:1]) if turns[0].role == "system" else []
    body = list(turns[len(head) :])
    with loaded.tokenizer_lock:
        start, ids = _longest_fit(loaded, head, body, limit)
    return Prompt(ids=tuple(ids), dropped_turns=start, max_tokens=min(max_tokens, loaded.context_length - len(ids)))


def _longest_fit(loaded: LoadedModel, head: list[Turn], body: list[Turn], limit: int) -> tuple[int, list[int]]:
    """The first place where `body` may be cut so that it fits, and the ids of head and what follows that place.

    Turns are counted from the newest back and only until the limit is passed, so a long history costs no more than a
    full context; the template is then applied to a few candidates, as it adds tokens that the count does not see.
    """
    users = [place for place, turn in enumerate(body) if turn.role == "user"]
    least = users[-1] if users else 0
    room = limit - sum(_count(loaded, turn.content, limit) for turn in head)
    starts: list[int] = []
    for place in range(len(body) - 1, -1, -1):
        room -= _count(loaded, body[place].content, max(room, 0))
        if room < 0:
            break
        if place <= least and (place == 0 or body[place].role == "user"):
            starts.append(place)
    if room < 0 and not starts:
        raise PromptTooLong(limit - room, limit)
    return _first_that_fits(loaded.tokenizer, head, body, starts or [0], limit)


def _first_that_fits(
    tokenizer: PreTrainedTokenizerFast, head: list[Turn], body: list[Turn], starts: list[int], limit: int
) -> tuple[int, list[int]]:
    """Bisects `starts`, which run from the newest turn to the oldest, after trying the oldest: it mostly fits."""
    ids = _encode(tokenizer, head + body[starts[-1] :])
    if len(ids) <= limit:
        return starts[-1], ids
    fitting: tuple[int, list[int]] | None = None
    low, high = 0, len(starts) - 1  # starts[:low] fit, starts[high:] do not
    while low < high:
        middle = (low + high) // 2
        ids = _encode(tokenizer, head + body[starts[middle] :])
        if len(ids) <= limit:
            fitting, low = (starts[middle], ids), middle + 1
        else:
            high = middle
    if fitting is None:
        raise PromptTooLong(len(ids), limit)
    return fitting


def _encode(tokenizer: PreTrainedTokenizerFast, turns: list[Turn]) -> list[int]:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        encoded: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, sanitize_control_tokens=True)
    except (jinja2.TemplateError, ValueError) as error:
        raise PromptRefused(f"The model's chat template does not take this conversation: {error}") from error
    return list(encoded["input_ids"])


def _count(loaded: LoadedModel, text: str, limit: int) -> int:
    """The tokens of `text` as plain text; for one that cannot fit, a lower bound above `limit` without encoding it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptRefused("A message holds half of a surrogate pair, which is not valid text.") from error
    at_least = len(text) // loaded.longest_token
    if at_least > limit:
        return at_least
    return len(loaded.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
