"""From the events of one try to Deltas: two channels, each with the tokens that it stands for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import takewhile

from inference.elsewhere import wire
from inference.elsewhere.faults import Broken
from inference.elsewhere.metering import Meter
from inference.elsewhere.patience import Patience
from inference.elsewhere.wire import Chunk
from inference.engine.channels import Splitter
from inference.types import Channel, Delta, FinishReason

DONE = "[DONE]"
# More text than so many characters a token is no answer to what was asked for.
MOST_CHARACTERS_PER_TOKEN = 512


class Reading:
    """Reads one stream. said: what was said before and is not to be said again; all that follows it is the answer.

    give() takes each Delta. splitter: tells reasoning from the answer where the server does not; None where there is
    nothing to tell.
    """

    def __init__(
        self,
        give: Callable[[Delta], None],
        meter: Meter,
        patience: Patience,
        *,
        most_tokens: int,
        said: str,
        splitter: Splitter | None,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.begun = False
        self._give = give
        self._meter = meter
        self._patience = patience
        self._splitter = splitter
        self._goes_on = bool(said)
        # The server is told of the text without these, and its model writes them again.
        self._repeated = said[len(said.rstrip()) :]
        self._room = most_tokens * MOST_CHARACTERS_PER_TOKEN
        self._owed = 0
        self._done = False

    @property
    def is_over(self) -> bool:
        """Whether the server has said that the answer ends."""
        return self.finish_reason is not None or self._done

    def finish(self) -> None:
        """Give out what was held back, as it might have become a delimiter."""
        if self._splitter is not None:
            for piece in self._splitter.flush():
                self._say(piece.text, piece.channel)

    async def read(self, events: AsyncIterator[str], clock: asyncio.Timeout) -> None:
        """Give out what comes until the stream ends, and set the clock to what may be waited for. Raises Fault."""
        now = asyncio.get_running_loop().time
        async for data in events:
            if self._done:
                continue
            if data.strip() == DONE:
                self._done = True
                clock.reschedule(now() + self._patience.close_s)
                continue
            was_over = self.is_over
            self._take(wire.read(data))
            if self.is_over and not was_over:
                clock.reschedule(now() + self._patience.usage_s)
            elif self.begun and not was_over:
                clock.reschedule(now() + self._patience.idle_s)
        if not self.is_over:
            raise Broken("The stream ended without saying why.")

    def _take(self, chunk: Chunk) -> None:
        self._owed += self._meter.take(chunk.usage, has_text=bool(chunk.text or chunk.reasoning))
        if chunk.reasoning:
            self._splitter = None  # the server has one of its own
        # A server that goes on in an answer may take it for a thought: it has not seen the thought end.
        self._say(chunk.reasoning, Channel.ANSWER if self._goes_on else Channel.REASONING)
        if self._splitter is None:
            self._say(chunk.text, Channel.ANSWER)
        else:
            for piece in self._splitter.text(chunk.text):
                self._say(piece.text, piece.channel)
        self.finish_reason = self.finish_reason or chunk.finish_reason

    def _say(self, text: str, channel: Channel) -> None:
        text = self._without_repeated(text)
        if not text:
            return
        self._room -= len(text)
        if self._room < 0:
            raise Broken("The server sends more text than was asked for.")
        tokens, self._owed = self._owed, 0
        self.begun = True
        self._give(Delta((), text, channel, unnamed=tokens))

    def _without_repeated(self, text: str) -> str:
        if not self._repeated or not text:
            return text
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._repeated, text, strict=False)))
        self._repeated = self._repeated[common:] if common == len(text) else ""
        return text[common:]
