"""Grammars: which tokens may come next in an answer that has to be JSON, match a pattern or be one of some texts.

llguidance compiles them and computes the masks, and the sampler applies those. It is imported with the first grammar.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inference.engine.loading import LoadedModel
from inference.engine.requests import InvalidRequest
from inference.types import Grammar, GrammarKind

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_CHOICES = 1000
LONGEST_COMPLAINT = 200
# What a model may write between two parts of JSON: a space, or a line's end and an indentation. Left free, a small one
# writes little else.
WHITESPACE = r"( |\n {0,16})?"
# Bounds of what a grammar may cost, in llguidance's units: about 6 ms to build its lexer, and 4 and 1 ms a mask.
LEXER_FUEL = 300_000
MASK_FUEL = 50_000
MASK_ITEMS = 20_000
# For the masks of many rows at once; the computation leaves Python's lock alone.
MASK_THREADS = 2


class Grammars:
    """Compiles grammars for one model. Thread-safe."""

    def __init__(self, loaded: LoadedModel, vocabulary: int) -> None:
        self._loaded = loaded
        self._vocabulary = max(vocabulary, len(loaded.tokenizer))
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._pool = ThreadPoolExecutor(MASK_THREADS, thread_name_prefix="grammar")

    def matcher(self, grammar: Grammar) -> GrammarMatcher:
        """A matcher at the grammar's start, its first mask computed already: that is the dearest one.

        Blocks, for up to a second with the first grammar of all. Raises InvalidRequest for a grammar that is wrong,
        too complex, or matches no text.
        """
        compiled = self._compile(grammar)
        if compiled.is_error():
            raise _refusal(grammar, compiled.get_error())
        matcher = GrammarMatcher(compiled, self._pool)
        matcher.compute()
        if matcher.failed:
            raise _refusal(grammar, "no text matches it, or it is too complex")
        return matcher

    def _compile(self, grammar: Grammar) -> LLMatcher:
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError:
            raise InvalidRequest("A grammar needs the package llguidance, which is not installed here.") from None
        try:
            source = _source(grammar, LLMatcher)
        except (ValueError, TypeError, RecursionError) as error:
            raise _refusal(grammar, str(error)) from error
        limits = LLParserLimits(
            initial_lexer_fuel=LEXER_FUEL, step_lexer_fuel=MASK_FUEL, step_max_items=MASK_ITEMS, verbose_errors=False
        )
        return LLMatcher(self._ll_tokenizer(), source, log_level=0, limits=limits)

    def _ll_tokenizer(self) -> LLTokenizer:
        from llguidance.hf import from_tokenizer

        loaded = self._loaded
        with self._lock:
            if self._tokenizer is None:
                ends = sorted(token for token in loaded.eos_ids if token < self._vocabulary)
                with loaded.tokenizer_lock:
                    self._tokenizer = from_tokenizer(loaded.tokenizer, n_vocab=self._vocabulary, eos_token=ends)
            return self._tokenizer


class GrammarMatcher:
    """One answer's way through its grammar. For one thread at a time; the next mask is computed beside the model.

    opening: a token that may come before all others, whatever the grammar says. failed: a token was accepted that the
    grammar does not allow, or a mask cost more than it may; nothing is allowed any more. complete: the answer matches,
    and nothing can follow.
    """

    def __init__(self, matcher: LLMatcher, pool: ThreadPoolExecutor) -> None:
        self.opening: int | None = None
        self._matcher = matcher
        self._pool = pool
        self._mask: Future[Tensor] = Future()

    @property
    def failed(self) -> bool:
        return self._matcher.is_error()

    @property
    def complete(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def compute(self) -> None:
        """Compute the mask of what comes next, on this thread: a costly one must not keep those of answers waiting."""
        self._mask = Future()
        self._mask.set_result(self._allowed())

    def prepare(self) -> None:
        """Begin to compute the mask of what comes next; mask() waits for it."""
        self._mask = self._pool.submit(self._allowed)

    def mask(self) -> Tensor:
        """The allowed tokens, a bit each, the lowest first, in int32 (ceil(V / 32),)."""
        return self._mask.result()

    def accept(self, token: int) -> None:
        """Go on to what follows `token`; one that is not allowed sets `failed`."""
        self.mask()  # the matcher is for one thread at a time
        opening, self.opening = self.opening, None
        if token != opening:
            self._matcher.consume_token(token)

    def _allowed(self) -> Tensor:
        words = bytearray(self._matcher.compute_bitmask())
        words += bytes(-len(words) % 4)
        if self._matcher.is_error():
            words = bytearray(len(words))
        elif self.opening is not None:
            words[self.opening // 8] |= 1 << self.opening % 8
        return torch.frombuffer(words, dtype=torch.int32)


def _source(grammar: Grammar, compiler: type[LLMatcher]) -> str:
    """The grammar as llguidance reads it. Raises ValueError, TypeError and RecursionError."""
    match grammar.kind:
        case GrammarKind.REGEX:
            return compiler.grammar_from_regex(grammar.text)
        case GrammarKind.CHOICE:
            return "start: " + " | ".join(json.dumps(choice) for choice in _choices(grammar.text))
        case GrammarKind.JSON_OBJECT:
            schema: Any = {"type": "object"}
        case GrammarKind.JSON_SCHEMA:
            schema = json.loads(grammar.text)
    if not isinstance(schema, dict):
        raise TypeError("a schema is a JSON object")
    schema.pop("x-guidance", None)
    return compiler.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_pattern": WHITESPACE})


def _choices(text: str) -> list[str]:
    choices = json.loads(text)
    if not isinstance(choices, list) or not 0 < len(choices) <= MOST_CHOICES:
        raise TypeError(f"choices are a JSON array of 1 to {MOST_CHOICES} texts")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise TypeError("a choice is a text of at least one character")
    return choices


def _refusal(grammar: Grammar, complaint: str) -> InvalidRequest:
    reason = " ".join(complaint.split())
    if len(reason) > LONGEST_COMPLAINT:
        reason = f"{reason[:LONGEST_COMPLAINT]}…"
    return InvalidRequest(f"The grammar ({grammar.kind}) cannot be used: {reason.rstrip('.')}.")
