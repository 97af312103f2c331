"""What crosses a boundary: frozen dataclasses that the doors, the service, the runner and the engine share.

A leaf: it imports the standard library alone, so that the engine runs where there is no Django.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class FinishReason(StrEnum):
    """Why an engine stopped sampling; the words of the OpenAI API, and the two that it has no word for."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class Channel(StrEnum):
    """Which part of an answer a piece of text belongs to."""

    ANSWER = "answer"
    REASONING = "reasoning"


class ReasoningFormat(StrEnum):
    """How a model marks what it thinks aloud: between two strings, or in channels as gpt-oss does."""

    TAGS = "tags"
    HARMONY = "harmony"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What tells a model's reasoning from its answer. TAGS needs both delimiters; HARMONY has its own."""

    format: ReasoningFormat
    open: str = ""
    close: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a prompt, as the model's chat template takes it: role is system, user or assistant."""

    role: str
    content: str


class Priority(StrEnum):
    """Whose turn it is when many wait: API and CHAT share by weight, BACKGROUND takes what both leave."""

    API = "api"
    CHAT = "chat"
    BACKGROUND = "background"


class GrammarKind(StrEnum):
    """What an answer has to be; `Grammar.text` says more of it."""

    JSON_SCHEMA = "json_schema"  # text: the schema
    JSON_OBJECT = "json_object"  # any JSON object; no text
    REGEX = "regex"  # text: a pattern for the whole answer, without look-around and back-references
    CHOICE = "choice"  # text: a JSON array of the texts of which the answer is one


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer has to match. What a model thinks aloud before it is free."""

    kind: GrammarKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. temperature 0 is greedy; the defaults of all others switch them off.

    min_p: the least probability, as a share of the likeliest token's. repetition_penalty divides or multiplies the
    logits of every token seen, prompt included (CTRL, arXiv 1909.05858); presence and frequency penalties are
    subtracted for what was sampled (OpenAI's API). logit_bias: pairs of token id and what is added to its logit.
    top_logprobs: None for no log-probabilities, else how many alternatives to tell (0 is the chosen token alone).
    stop_ids end the answer as the model's own end tokens do; min_tokens of it are sampled before either may.
    grammar: the answer ends where it matches and nothing can follow.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 1024
    min_tokens: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    grammar: Grammar | None = None

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Sampling:
        """From its JSON form (`dataclasses.asdict`), in which tuples have become lists and a grammar a dict."""
        listed = {name: tuple(fields[name]) for name in ("stop", "stop_ids") if name in fields}
        bias = tuple((int(token), float(added)) for token, added in fields.get("logit_bias", ()))
        wanted = fields.get("grammar")
        grammar = Grammar(GrammarKind(wanted["kind"]), wanted["text"]) if wanted else None
        return cls(**{**fields, **listed, "logit_bias": bias, "grammar": grammar})


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log-probability of a sampled token, before temperature and filters, and those of the likeliest ones."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """Tokens just sampled and the text that they complete; never half a UTF-8 character, and possibly no text.

    logprobs has one entry a token where the request asked for them. unnamed: how many tokens it stands for where their
    ids are not known, as an engine elsewhere tells its text alone.
    """

    token_ids: tuple[int, ...]
    text: str
    channel: Channel = Channel.ANSWER
    logprobs: tuple[Logprob, ...] = ()
    unnamed: int = 0

    @property
    def tokens(self) -> int:
        """How many were sampled."""
        return len(self.token_ids) + self.unnamed


@dataclass(frozen=True, slots=True)
class Finished:
    """The one terminal event of a handle. error is a sentence for the log when reason is ERROR.

    cached_tokens: how many of the prompt's tokens had their keys and values from the prefix cache when it was admitted.
    An engine elsewhere counts by itself: prompt_tokens and completion_tokens, where it told them, are its figures. code
    is one of `inference.errors` where "the model failed" is not what there is to say.
    """

    reason: FinishReason
    error: str = ""
    cached_tokens: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    code: str = ""
