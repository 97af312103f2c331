"""The token log: one Redis Stream a generation, and its fence.

Entry ids are `{epoch}-{seq}`, chosen by us: `start` is seq 0, each later entry is one more. Redis refuses an id that is
not above the last one, so a worker of an older epoch cannot write once a newer one has (the fence). The log is never
the truth: it may vanish at any moment, and PostgreSQL still has every saved character.

    field  meaning
    k      kind: start | delta | end | fence
    t      delta: UTF-8 text
    c      delta: channel, left out for the answer
    i      delta: the token ids, little-endian uint32
    n      delta: how many tokens more it stands for whose ids are unknown, left out for none
    p, d   start: prompt tokens, dropped messages
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import redis
from django.conf import settings

from inference.types import Channel

# What an entry is made of, as redis-py takes it.
Fields = dict[str, str | bytes | int]

EXPIRY_S = 3600
ID_BYTES = 4
CONTROL_MAXLEN = 1000
OWNER_MAXLEN = 100


class EventId(NamedTuple):
    """A place in a generation's log. Compares by epoch, then seq."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Raises ValueError for anything but two decimal numbers that fit into 63 bits."""
        epoch, dash, seq = text.partition("-")
        if not (dash and epoch.isascii() and epoch.isdigit() and seq.isascii() and seq.isdigit() and len(text) <= 38):
            raise ValueError("an event id looks like 1-42")
        return cls(int(epoch), int(seq))

    def precedes(self, other: EventId) -> bool:
        """Whether `other` is the very next entry, with no gap between the two.

        From one epoch to the next nobody can tell from the ids alone: what the old one wrote last may be missing.
        """
        return other == (self.epoch, self.seq + 1) or (self == START and other == (1, 0))


START = EventId(0, 0)


class Kind(StrEnum):
    START = "start"
    DELTA = "delta"
    END = "end"
    FENCE = "fence"


_KINDS = {kind.encode(): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a generation's log."""

    id: EventId
    kind: Kind
    text: str = ""
    channel: Channel = Channel.ANSWER
    token_ids: bytes = b""
    unnamed: int = 0
    prompt_tokens: int = 0
    dropped_messages: int = 0

    @property
    def tokens(self) -> int:
        """How many were sampled."""
        return len(self.token_ids) // ID_BYTES + self.unnamed


class Entry(NamedTuple):
    """One entry to be written: the stream's key, its fields, and its id, "*" for one that Redis chooses."""

    key: str
    fields: Fields
    id: str = "*"


class Fenced(Exception):
    """A newer epoch has written to this log: the writer has lost its generation and must stop."""


@lru_cache(maxsize=1)
def client() -> redis.Redis:
    """This process's Redis client; threads share it and wait for a connection when all are taken."""
    pool = redis.BlockingConnectionPool.from_url(
        settings.REDIS_URL, max_connections=64, timeout=3, socket_timeout=3, socket_connect_timeout=3
    )
    return redis.Redis(connection_pool=pool)


def key(generation_id: uuid.UUID) -> str:
    return f"gen:{generation_id}"


def owner_key(owner_id: uuid.UUID) -> str:
    return f"owner:{owner_id}"


def control_key(worker: str) -> str:
    return f"control:{worker}"


def pack_ids(token_ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(token_ids)}I", *token_ids)


def unpack_ids(packed: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(packed) // ID_BYTES}I", packed))


def decode(event_id: EventId, fields: dict[bytes, bytes]) -> Event:
    """An Event from the fields of Redis's reply."""
    channel = fields.get(b"c")
    return Event(
        id=event_id,
        kind=_KINDS[fields[b"k"]],
        text=fields.get(b"t", b"").decode(),
        channel=Channel(channel.decode()) if channel else Channel.ANSWER,
        token_ids=fields.get(b"i", b""),
        unnamed=int(fields.get(b"n", 0)),
        prompt_tokens=int(fields.get(b"p", 0)),
        dropped_messages=int(fields.get(b"d", 0)),
    )


class TokenLog:
    """Writes one epoch's entries. Not thread-safe: one generation, one writer.

    `seq` is the last that was given to an entry. Each method that writes raises Fenced when a newer epoch has written,
    and redis.RedisError when Redis does not answer. Then the entry may or may not be there: the caller keeps its
    content elsewhere and leaves a gap (`skip`).
    """

    def __init__(self, generation_id: uuid.UUID, epoch: int) -> None:
        self._key = key(generation_id)
        self._epoch = epoch
        self.seq = 0

    def open(self, *, prompt_tokens: int, dropped_messages: int) -> None:
        """Write entry 0 of this epoch; from here on older epochs are fenced out."""
        self._write({"k": Kind.START, "p": prompt_tokens, "d": dropped_messages}, seq=0)

    def delta(
        self, text: str, token_ids: Sequence[int], channel: Channel = Channel.ANSWER, *, unnamed: int = 0
    ) -> Entry:
        """The next delta, to be written by `write_all`. unnamed: tokens whose ids are unknown."""
        fields: Fields = {"k": Kind.DELTA, "t": text.encode(), "i": pack_ids(token_ids)}
        if unnamed:
            fields["n"] = unnamed
        if channel is not Channel.ANSWER:
            fields["c"] = channel
        return self._next(fields)

    def append(self, text: str, token_ids: Sequence[int], channel: Channel = Channel.ANSWER) -> None:
        """Write the next delta."""
        _publish(self.delta(text, token_ids, channel))

    def close(self) -> None:
        """Write the end mark. Followers read from PostgreSQL how it ended, so it comes after the commit."""
        _publish(self._next({"k": Kind.END}))

    def skip(self) -> None:
        """Give up on entries that may or may not have arrived: the next one leaves a gap that readers see."""
        self.seq += 1

    def _next(self, fields: Fields) -> Entry:
        self.seq += 1
        return Entry(self._key, fields, f"{self._epoch}-{self.seq}")

    def _write(self, fields: Fields, *, seq: int) -> None:
        _publish(Entry(self._key, fields, f"{self._epoch}-{seq}"))
        self.seq = seq


def write_all(entries: Sequence[Entry]) -> list[redis.ResponseError | Fenced | None]:
    """Add entries of any number of logs in one round trip. What went wrong with each, None where nothing did.

    Expiry is not renewed: a log has an hour from its start, and its last entry renews that. Raises redis.RedisError
    where Redis does not answer; then nobody knows which of them have arrived.
    """
    with client().pipeline(transaction=False) as pipe:
        for entry in entries:
            pipe.xadd(entry.key, entry.fields, id=entry.id)
        answers = pipe.execute(raise_on_error=False)
    return [_fault(answer) for answer in answers]


def _fault(answer: object) -> redis.ResponseError | Fenced | None:
    if not isinstance(answer, redis.ResponseError):
        return None
    return Fenced() if "equal or smaller" in str(answer) else answer


def fence(generation_id: uuid.UUID, epoch: int) -> None:
    """Shut out every writer of an epoch below `epoch`, before their last entries are read. Idempotent."""
    with suppress(Fenced):
        _publish(Entry(key(generation_id), {"k": Kind.FENCE}, f"{epoch}-0"))


def unbroken(cursor: EventId, entries: Iterable[tuple[EventId, dict[bytes, bytes]]]) -> list[Event]:
    """The entries that follow `cursor` up to the first gap, decoded."""
    events: list[Event] = []
    for event_id, fields in entries:
        if not cursor.precedes(event_id):
            break
        events.append(decode(event_id, fields))
        cursor = event_id
    return events


def tail(generation_id: uuid.UUID, after: EventId) -> list[Event]:
    """The deltas of `after`'s epoch that follow it without a gap."""
    entries = client().xrange(key(generation_id), min=f"({after}", max=f"{after.epoch}-{2**63}")
    events = unbroken(after, ((EventId.parse(entry_id.decode()), fields) for entry_id, fields in entries))
    return [event for event in events if event.kind is Kind.DELTA]


def end(generation_id: uuid.UUID, epoch: int, seq: int) -> None:
    """Mark a log as ended on behalf of a writer that is not there: a queued one that was cancelled, a crashed one."""
    log = TokenLog(generation_id, epoch)
    log.seq = seq
    log.close()


def tell_owner(owner_id: uuid.UUID, generation_id: uuid.UUID) -> None:
    """Say to every socket of this owner, in any web process, that this generation began or ended."""
    _publish(Entry(owner_key(owner_id), {"g": str(generation_id)}), maxlen=OWNER_MAXLEN)


def tell_owner_of(owner_id: uuid.UUID, conversation_id: uuid.UUID) -> None:
    """Say the same of a conversation in which something else than a generation changed."""
    _publish(Entry(owner_key(owner_id), {"c": str(conversation_id)}), maxlen=OWNER_MAXLEN)


def tell_worker(worker: str, command: str, generation_id: uuid.UUID) -> None:
    """Put a command on a worker's control stream; it acts within one decode step."""
    fields: Fields = {"command": command, "generation": str(generation_id)}
    _publish(Entry(control_key(worker), fields), maxlen=CONTROL_MAXLEN)


def _publish(entry: Entry, *, maxlen: int | None = None) -> None:
    """Add an entry to a stream and renew its expiry, in one round trip. Raises Fenced and redis.RedisError."""
    with client().pipeline(transaction=False) as pipe:
        pipe.xadd(entry.key, entry.fields, id=entry.id, maxlen=maxlen, approximate=True)
        pipe.expire(entry.key, EXPIRY_S)
        added, _ = pipe.execute(raise_on_error=False)
    if fault := _fault(added):
        raise fault from None
