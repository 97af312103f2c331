"""The text of one answer as it is given out: decoded, split into channels, and cut at stop strings."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from inference.engine.channels import Piece, Splitter
from inference.engine.stops import StopStrings
from inference.engine.text import TextStream
from inference.types import Channel


class AnswerText:
    """feed() each sampled id, flush() once at the end. Stop strings hold for the answer's channel alone.

    What comes out with a token is text of one channel; what the token has of the next channel comes with the token
    after it. So a token and its text are given out, stored and gone on from as one.
    """

    def __init__(self, stream: TextStream, splitter: Splitter, stop: Sequence[str] = ()) -> None:
        self._stream = stream
        self._splitter = splitter
        self._stop = StopStrings(stop)
        self._ready: deque[Piece] = deque()  # no two neighbours of one channel

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come: the text ends before it."""
        return self._stop.stopped

    @property
    def channel(self) -> Channel:
        return self._splitter.channel

    @property
    def answering(self) -> bool:
        """Whether the next token may be one of the answer's channel."""
        return self._splitter.answering

    def feed(self, token_id: int) -> Piece:
        """What is given out with this token; often no text, and of what channel the token is then."""
        if self.stopped:
            return Piece(Channel.ANSWER, "")
        before = self._splitter.channel
        if self._splitter.marks(token_id):
            self._add(self._splitter.text(self._stream.flush()))
            self._add(self._splitter.mark(token_id))
        else:
            self._add(self._splitter.text(self._stream.feed(token_id)))
        if self._ready:
            return self._ready.popleft()
        # A delimiter counts as reasoning, on either side of it.
        return Piece(Channel.REASONING if before is Channel.REASONING else self._splitter.channel, "")

    def flush(self) -> list[Piece]:
        """What was held back, without an incomplete last character; none of the answer after a stop string."""
        if not self.stopped:
            self._add(self._splitter.text(self._stream.flush()))
            self._add(self._splitter.flush())
            self._push(Piece(Channel.ANSWER, self._stop.flush()))
        pieces = [*self._ready]
        self._ready.clear()
        return pieces

    def _add(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            answer = piece.channel is Channel.ANSWER
            self._push(Piece(piece.channel, self._stop.feed(piece.text)) if answer else piece)

    def _push(self, piece: Piece) -> None:
        if not piece.text:
            return
        if self._ready and self._ready[-1].channel is piece.channel:
            piece = Piece(piece.channel, self._ready.pop().text + piece.text)
        self._ready.append(piece)
