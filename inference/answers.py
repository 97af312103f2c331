"""One answer being written: what the engine gave out, what the log holds, and what waits in between.

Three threads meet here: the task that began it and will end it, the publisher that writes its tokens to the log, and
the saver that writes what the log holds to PostgreSQL. Invariant: what is saved is what the log has, so that an answer
that goes on elsewhere repeats nothing and loses nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from django.utils import timezone
from redis.exceptions import RedisError

from inference import stream
from inference.models import Generation, Progress
from inference.served import Handle, Resumed
from inference.stream import Entry, Fenced, TokenLog
from inference.types import Channel, Delta, Finished

log = logging.getLogger("worker")

REPLACEMENT = "\ufffd"


class Answer:
    """The state of one run of a generation; a run that is `lost` writes nothing more. All methods are thread-safe.

    `over` is set once the engine has ended, as `finished` tells, and what it gave out was written to the log.
    """

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.log = TokenLog(generation.pk, generation.epoch)
        self.handle: Handle | None = None
        self.finished: Finished | None = None
        self.over = threading.Event()
        self.lost = False
        self._lock = threading.Lock()
        self._text = {Channel.ANSWER: generation.text, Channel.REASONING: generation.reasoning}
        self._ids = stream.unpack_ids(bytes(generation.token_ids))
        self._tokens = Counter(
            {
                Channel.ANSWER: generation.completion_tokens - generation.reasoning_tokens,
                Channel.REASONING: generation.reasoning_tokens,
            }
        )
        self._seq = 0  # of the last entry that is certainly in the log, or given up
        self._unreachable = False
        self._pending: list[Delta] = []
        self._sent: list[list[Delta]] = []
        # Given out at the end alone, as it might have become something else (half a stop string). It belongs to the
        # answer when it ends here: a worker that goes on holds it back itself.
        self._held: list[Delta] = []

    @property
    def resumed(self) -> Resumed:
        """What another worker wrote, of this generation or of the one that it continues."""
        row = self.generation
        return Resumed(row.text, row.reasoning, tuple(self._ids), row.carried_tokens + row.completion_tokens)

    @property
    def begun(self) -> bool:
        """Whether its first token has been given out."""
        return self.generation.first_token_at is not None

    def open(self, *, prompt_tokens: int, dropped_messages: int) -> None:
        """Write the log's first entry."""
        try:
            self.log.open(prompt_tokens=prompt_tokens, dropped_messages=dropped_messages)
        except Fenced:
            self.lost = True
        except RedisError:
            self._unreachable = True

    def gather(self) -> list[Entry]:
        """Take what the engine has given out; the entries to write now, one for each run of a channel.

        They are in flight until `settle`. None while the log cannot be reached, until `progress` has passed over that.
        """
        with self._lock:
            self._drain()
            if self.lost or self._unreachable:
                return []
            entries = []
            for channel, group in groupby(self._pending, key=attrgetter("channel")):
                run = list(group)
                entries.append(self._entry(run, channel))
                self._sent.append(run)
            self._pending.clear()
            return entries

    def settle(self, faults: Sequence[Exception | None]) -> None:
        """What became of the entries of `gather`: a fault each, or None.

        After a fault other than Fenced it is unknown what the log holds, and nothing more is tried until `progress` has
        left a gap.
        """
        with self._lock:
            for run, fault in zip(self._sent, faults, strict=True):
                if isinstance(fault, Fenced):
                    self.lost = True
                elif fault is not None:
                    self._unreachable = True
                if self.lost or self._unreachable:
                    self._pending += run
                else:
                    self._count(run)
                    self._seq += 1
            self._sent.clear()
            if self._unreachable:
                log.warning("token log unreachable", extra={"generation": self.generation.pk})
            if self.finished is not None or self.lost:
                self.over.set()

    def progress(self) -> Progress:
        """What the log holds. What it did not take is counted in, at a place that leaves a gap which followers see."""
        with self._lock:
            if self._unreachable and not self._sent:
                self._count(self._pending)
                self._pending.clear()
                self._unreachable = False
                self.log.skip()
                self._seq = self.log.seq
            return self._progress()

    def last(self) -> Progress:
        """All of it, with what was held back: what the row says when it ends here."""
        self.progress()
        with self._lock:
            before = self._progress()
            self._count(self._held)
            # What was held comes to the log after the row has ended: before that, a crash would have it said twice.
            self._seq += len(self._held)
            last = self._progress()
            held_text, held_reasoning = len(last.text) - len(before.text), len(last.reasoning) - len(before.reasoning)
            return replace(last, held_text=held_text, held_reasoning=held_reasoning)

    def close(self) -> None:
        """Write what was held and the end mark. Raises Fenced and RedisError."""
        for delta in self._held:
            self.log.append(delta.text, delta.token_ids, delta.channel)
        self.log.close()

    def cancel(self) -> None:
        """The engine need not go on."""
        if self.handle is not None:
            self.handle.cancel()

    def _drain(self) -> None:
        while self.handle is not None and (event := self.handle.get(timeout=0)) is not None:
            if isinstance(event, Finished):
                self.finished = event
            else:
                self._take(event)

    def _take(self, delta: Delta) -> None:
        self._held.append(replace(delta, text=_storable(delta.text)))
        if not delta.tokens:
            return
        if self.generation.first_token_at is None:
            self.generation.first_token_at = timezone.now()
        self._pending += self._held
        self._held.clear()

    def _entry(self, run: list[Delta], channel: Channel) -> Entry:
        text = "".join(delta.text for delta in run)
        ids = [token for delta in run for token in delta.token_ids]
        return self.log.delta(text, ids, channel, unnamed=sum(delta.unnamed for delta in run))

    def _count(self, run: Sequence[Delta]) -> None:
        for delta in run:
            self._text[delta.channel] += delta.text
            self._tokens[delta.channel] += delta.tokens
            self._ids.extend(delta.token_ids)

    def _progress(self) -> Progress:
        finished = self.finished
        return Progress(
            text=self._text[Channel.ANSWER],
            reasoning=self._text[Channel.REASONING],
            token_ids=tuple(self._ids),
            tokens=self._tokens.total() if finished is None else finished.completion_tokens or self._tokens.total(),
            reasoning_tokens=self._tokens[Channel.REASONING],
            seq=self._seq,
        )


def _storable(text: str) -> str:
    """The text without what PostgreSQL refuses, and what no UTF-8 can say: a NUL, half a surrogate pair.

    Models do sample such bytes, and one answer must not keep the others of its statement from being saved.
    """
    if "\0" in text:
        text = text.replace("\0", REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
