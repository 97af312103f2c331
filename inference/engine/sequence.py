"""One answer in the making: its token ids, its sampling state, its text."""

from __future__ import annotations

from inference.engine.channels import Piece
from inference.engine.grammars import GrammarMatcher
from inference.engine.loading import LoadedModel
from inference.engine.reasoning import AnswerFormat
from inference.engine.requests import Handle, InvalidRequest
from inference.engine.sampler import Choice, RowState
from inference.engine.scheduler import Job
from inference.types import Delta, Finished, FinishReason, Priority


class Row(Job):
    """A handle's request as the scheduler, the cache and the sampler see it. For the engine's thread, once submitted.

    Invariant: ids are the prompt and what was sampled, and `known` is their number. `finished` says why it is complete.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        handle: Handle,
        *,
        answers: AnswerFormat,
        grammar: GrammarMatcher | None,
        vocabulary: int,
        priority: Priority,
        owner: str,
    ) -> None:
        request = handle.request
        self.handle = handle
        self.ids = [*request.prompt_ids, *request.resume_ids]
        super().__init__(owner=owner, priority=priority, known=len(self.ids))
        self.state = RowState(
            request.sampling,
            prompt_ids=request.prompt_ids,
            resume_ids=request.resume_ids,
            eos_ids=loaded.eos_ids,
            vocabulary=vocabulary,
            device=loaded.device,
        )
        self._sampling = request.sampling
        self._ends = loaded.eos_ids | {*request.sampling.stop_ids}
        self._context_length = loaded.context_length
        self._text = answers.answer(request.prompt_ids, request.sampling.stop)
        self._grammar = grammar
        if grammar is not None and self._text.answering:
            grammar.opening = answers.opening
        self._constrain()
        self._cached_tokens: int | None = None
        self.failed = False  # once before: it has read all its tokens again since
        self.finished: FinishReason | None = None
        # Whoever resumes has the text of these already.
        for token in request.resume_ids:
            self._read(token)
        if grammar is not None and grammar.failed:
            raise InvalidRequest("resume_ids do not follow the grammar.")
        if request.resume_ids:
            self.finished = self._reason(self.ids[-1])
        if grammar is not None:
            grammar.compute()

    def enter(self) -> None:
        """The scheduler has just admitted it. What is read again after a preemption, cached or not, counts nowhere."""
        if self._cached_tokens is None:
            self._cached_tokens = min(self.computed, len(self.handle.request.prompt_ids))

    @property
    def began(self) -> bool:
        """Whether the last token was the first that is given out here."""
        return self.state.sampled == len(self.handle.request.resume_ids) + 1

    def take(self, choice: Choice) -> None:
        """Go on with a sampled token: give out what it completes."""
        token = choice.token
        if token is None:
            raise ValueError("nothing was sampled")
        self.ids.append(token)
        self.known += 1
        self.state.take(token)
        piece = self._read(token)
        logprobs = (choice.logprob,) if choice.logprob is not None else ()
        self.handle.put(Delta(token_ids=(token,), text=piece.text, channel=piece.channel, logprobs=logprobs))
        self.finished = self._reason(token)
        self._prepare()

    def end(self, reason: FinishReason, error: str = "", *, code: str = "") -> None:
        """Give out the text still held back, if any, and the one Finished."""
        self.finished = reason
        if reason is not FinishReason.ERROR:
            for piece in self._text.flush():
                self.handle.put(Delta(token_ids=(), text=piece.text, channel=piece.channel))
        self.handle.put(Finished(reason=reason, error=error, cached_tokens=self._cached_tokens or 0, code=code))

    def _read(self, token: int) -> Piece:
        """What the token completes; one that ends the answer has no text, and all others have been fed before it."""
        if token in self._ends:
            return Piece(self._text.channel, "")
        if self.state.grammar is not None:
            self.state.grammar.accept(token)
        piece = self._text.feed(token)
        self._constrain()
        return piece

    def _constrain(self) -> None:
        """The grammar is for the answer: what the model thinks aloud is free."""
        self.state.grammar = self._grammar if self._text.answering else None

    def _prepare(self) -> None:
        if self._grammar is not None and self.state.grammar is not None and self.finished is None:
            self._grammar.prepare()

    def _reason(self, last: int) -> FinishReason | None:
        """Why this answer is complete after the token `last`, or None. A token needs room only when it is read."""
        complete = self._grammar is not None and self._grammar.complete
        if last in self._ends or self._text.stopped or complete:
            return FinishReason.STOP
        if self.state.sampled >= self._sampling.max_tokens or self.known > self._context_length:
            return FinishReason.LENGTH
        return None
