"""Following an answer: everything after a given place, from Redis while it grows and from PostgreSQL otherwise.

There is one `follow`, and every door uses it. What it yields, joined, is the stored text: deltas without a gap, and
where a gap cannot be filled (Redis was flushed, the place is unknown) a Snapshot of the whole.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial

from redis.exceptions import RedisError

from inference import stream, waits
from inference.models import Generation
from inference.reader import Feed, readers
from inference.stream import START, Event, EventId, Kind
from inference.threads import on_thread
from inference.types import Channel

# Silence after which PostgreSQL is asked; shorter while a place in the queue is to be shown.
SILENCE_S = 5.0
QUEUED_SILENCE_S = 2.0
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Queued:
    """Still waiting; position 1 is next. eta_s is None where no wait can be told yet."""

    position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Started:
    id: EventId
    prompt_tokens: int
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class Text:
    """More text, up to and including event `id`."""

    id: EventId
    text: str
    channel: Channel


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole text up to `id`."""

    id: EventId
    text: str
    reasoning: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Terminal; `generation` is the row as it stands for ever."""

    generation: Generation


Followed = Queued | Started | Text | Snapshot | Ended


async def follow(generation_id: uuid.UUID, after: EventId | None = None) -> AsyncGenerator[Followed, None]:
    """Yield what happens to a generation after `after` (None: from its first character) until it has Ended.

    Whatever has gathered since the last pull comes merged, so a slow reader costs no memory. Raises
    Generation.DoesNotExist. The caller has checked who may read.
    """
    cursor = after or START
    while True:
        generation = await _load(generation_id)
        if generation.is_terminal:
            async for item in _rest(generation, cursor):
                yield item
            return
        try:
            async with readers().tokens.follow(stream.key(generation_id)) as feed:
                async for item in _live(generation, feed, cursor):
                    yield item
                return
        except RedisError:
            # Redis is away: PostgreSQL has the text up to a second ago.
            if saved(generation) > cursor:
                cursor = saved(generation)
                yield Snapshot(cursor, generation.text, generation.reasoning)
            await asyncio.sleep(RETRY_S)


def saved(generation: Generation) -> EventId:
    """The event that the stored text reaches."""
    return EventId(generation.epoch, generation.last_seq)


async def _live(generation: Generation, feed: Feed, cursor: EventId) -> AsyncIterator[Followed]:
    while True:
        fresh = feed.after(cursor)
        events = stream.unbroken(cursor, fresh)
        if events:
            for item in _merge(events):
                yield item
            deltas = events[:-1] if events[-1].kind is Kind.END else events
            cursor = deltas[-1].id if deltas else cursor
            if events[-1].kind is Kind.END:
                generation = await _load(generation.pk)
                async for item in _rest(generation, cursor):
                    yield item
                return
            continue
        if not fresh:
            queued = generation.state == Generation.State.QUEUED
            if await feed.changed(QUEUED_SILENCE_S if queued else SILENCE_S):
                continue
        generation = await _load(generation.pk)
        if generation.is_terminal:
            async for item in _rest(generation, cursor):
                yield item
            return
        if saved(generation) > cursor:
            cursor = saved(generation)
            yield Snapshot(cursor, generation.text, generation.reasoning)
            continue
        for waiting in await _waiting(generation):
            yield waiting
        if fresh:
            # A gap, and the next save that closes it is less than a second away.
            await asyncio.sleep(RETRY_S)


async def _waiting(generation: Generation) -> list[Queued]:
    """What to tell of one that waits; nothing of any other."""
    if generation.state != Generation.State.QUEUED:
        return []
    place = await on_thread(partial(waits.place_of, generation))
    return [Queued(place.position, place.eta_s)] if place else []


async def _rest(generation: Generation, cursor: EventId) -> AsyncIterator[Followed]:
    """What someone at `cursor` lacks of a generation that is over."""
    if cursor != saved(generation) and (generation.text or generation.reasoning):
        yield Snapshot(saved(generation), generation.text, generation.reasoning)
    yield Ended(generation)


def _merge(events: Iterable[Event]) -> list[Followed]:
    """Neighbouring deltas of one channel become one."""
    merged: list[Followed] = []
    for event in events:
        last = merged[-1] if merged else None
        if event.kind is Kind.START:
            merged.append(Started(event.id, event.prompt_tokens, event.dropped_messages))
        elif event.kind is Kind.DELTA and isinstance(last, Text) and last.channel is event.channel:
            merged[-1] = Text(event.id, last.text + event.text, event.channel)
        elif event.kind is Kind.DELTA and event.text:
            merged.append(Text(event.id, event.text, event.channel))
    return merged


async def _load(generation_id: uuid.UUID) -> Generation:
    return await on_thread(partial(Generation.objects.get, pk=generation_id))
