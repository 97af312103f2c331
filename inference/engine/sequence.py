"""One answer in the making: its KV cache, its place in the prompt, its text."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from inference.engine.loading import LoadedModel
from inference.engine.requests import Handle
from inference.engine.sampling import choose
from inference.engine.text import TextStream
from inference.types import Delta, Finished, FinishReason


class Sequence:
    """Runs a handle's request, one forward pass per advance(). For the engine's thread alone.

    Invariant: the cache holds the keys and values of all tokens but `_unread`, which the next passes read.
    """

    def __init__(self, loaded: LoadedModel, handle: Handle, *, prefill_tokens: int) -> None:
        request = handle.request
        self.handle = handle
        self._loaded = loaded
        self._sampling = request.sampling
        self._prefill_tokens = prefill_tokens
        self._unread = [*request.prompt_ids, *request.resumed_ids]
        self._room = loaded.context_length - len(self._unread)
        self._cache = DynamicCache(config=loaded.model.config)
        self._text = TextStream(loaded.tokenizer, request.sampling.stop)
        self._sampled = 0
        self.finished: FinishReason | None = None

    def advance(self) -> int:
        """One forward pass: a chunk of the prompt, or the next token. Returns how many tokens it sampled: 0 or 1."""
        if self._sampled == 0 and self.handle.request.resumed_ids:
            self._catch_up(self.handle.request.resumed_ids)
            if self.finished is not None:
                return 0
        chunk = self._unread[: self._prefill_tokens]
        input_ids = torch.tensor([chunk], device=self._loaded.device)
        output = self._loaded.model(input_ids=input_ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        del self._unread[: len(chunk)]
        if self._unread:
            return 0
        self._take(choose(output.logits[:, -1], self._sampling, self._sampled))
        return 1

    def end(self, reason: FinishReason, error: str = "") -> None:
        """Give out the text still held back, if any, and the one Finished."""
        if reason is not FinishReason.ERROR and (held := self._text.flush()):
            self.handle.put(Delta(token_ids=(), text=held))
        self.handle.put(Finished(reason=reason, error=error))

    def _catch_up(self, resumed_ids: tuple[int, ...]) -> None:
        """Bring text and count to where another engine left off; whoever resumes has the text of these tokens."""
        for token in resumed_ids:
            self._text.feed(token)
        self._sampled = len(resumed_ids)
        self.finished = self._reason(resumed_ids[-1])

    def _take(self, token: int) -> None:
        self._unread = [token]
        self._sampled += 1
        self._room -= 1
        text = "" if token in self._loaded.eos_ids else self._text.feed(token)
        self.handle.put(Delta(token_ids=(token,), text=text))
        self.finished = self._reason(token)

    def _reason(self, last: int | None) -> FinishReason | None:
        """Why this answer is complete after the token `last`, or None. A token needs room only when it is read."""
        if last in self._loaded.eos_ids or self._text.stopped:
            return FinishReason.STOP
        if self._sampled >= self._sampling.max_tokens or self._room < 0:
            return FinishReason.LENGTH
        return None
