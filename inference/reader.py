"""The multiplexed reader: one XREAD, on one connection, for every token log that this web process follows.

`StreamReader.follow(key)` gives a Feed: the entries of that stream since its start, shared by all who follow it, each
with a cursor of their own. The reader's cost is one Redis call for whatever arrived in a few milliseconds, whatever the
number of followers.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import redis.asyncio
from django.conf import settings
from redis.exceptions import RedisError

from inference.stream import EXPIRY_S, START, EventId

log = logging.getLogger("reader")

Fields = dict[bytes, bytes]
Entry = tuple[bytes, Fields]
BLOCK_MS = 5000
# Between two reads, so that entries of many streams share one call: 0.2 ms a stream, at most 10 ms.
GATHER_S_PER_STREAM = 0.0002
GATHER_MAX_S = 0.010
RETRY_S = 0.5
# One waits in XREAD; the others serve those who begin to follow.
CONNECTIONS = 16


class Feed:
    """What has been read of one stream since its start (or, with `keep`, the last so many entries of it)."""

    def __init__(self, cursor: EventId, keep: int | None = None) -> None:
        self.cursor = cursor
        self.followers = 0
        self._ids: list[EventId] = []
        self._entries: list[Fields] = []
        self._keep = keep
        self._waiting: set[asyncio.Future[bool]] = set()

    def add(self, entries: list[Entry]) -> None:
        for entry_id, fields in entries:
            self._ids.append(EventId.parse(entry_id.decode()))
            self._entries.append(fields)
        self.cursor = self._ids[-1]
        if self._keep:
            del self._ids[: -self._keep], self._entries[: -self._keep]
        for future in self._waiting:
            _settle(future, True)

    def after(self, cursor: EventId) -> list[tuple[EventId, Fields]]:
        """The entries behind `cursor`, oldest first."""
        first = bisect_right(self._ids, cursor)
        return list(zip(self._ids[first:], self._entries[first:], strict=True))

    async def changed(self, timeout_s: float) -> bool:
        """Wait until entries arrive. False after `timeout_s` of silence."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.add(future)
        # Once a delta, and asyncio.timeout() costs twice as much (3.4 µs).
        timer = loop.call_later(timeout_s, _settle, future, False)
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.discard(future)


def _settle(future: asyncio.Future[bool], changed: bool) -> None:
    if not future.done():
        future.set_result(changed)


class StreamReader:
    """One XREAD at a time, on one connection; it waits without cost while nothing is followed."""

    def __init__(self) -> None:
        # A pool that waits: after a restart every browser returns at once, and redis-py's own pool refuses the rest.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.REDIS_URL,
            max_connections=CONNECTIONS,
            timeout=5,
            socket_connect_timeout=5,
            socket_timeout=BLOCK_MS / 1000 + 5,
        )
        self._redis = redis.asyncio.Redis(connection_pool=pool)
        self._wake_key = f"wake:{uuid.uuid4()}"
        self._wake_cursor = "0-0"
        self._feeds: dict[str, Feed] = {}
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @asynccontextmanager
    async def follow(self, key: str) -> AsyncIterator[Feed]:
        """Follow a stream from its start. Raises RedisError where Redis does not answer."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = Feed(START)
            entries = await self._redis.xrange(key)
            if entries:
                feed.add(entries)
        async with self._followed(key, feed) as shared:
            yield shared

    @asynccontextmanager
    async def follow_from_now(self, key: str, keep: int) -> AsyncIterator[Feed]:
        """Follow a stream from this moment on, keeping its last `keep` entries. Raises RedisError likewise."""
        feed = self._feeds.get(key)
        if feed is None:
            last = await self._redis.xrevrange(key, count=1)
            feed = Feed(EventId.parse(last[0][0].decode()) if last else START, keep)
        async with self._followed(key, feed) as shared:
            yield shared

    @asynccontextmanager
    async def _followed(self, key: str, feed: Feed) -> AsyncIterator[Feed]:
        # Another follower may have opened the same stream while this one asked Redis.
        feed = self._feeds.setdefault(key, feed)
        feed.followers += 1
        try:
            self._wanted.set()
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.xadd(self._wake_key, {b"w": b""}, maxlen=1, approximate=False)
                pipe.expire(self._wake_key, EXPIRY_S)
                await pipe.execute()
            yield feed
        finally:
            feed.followers -= 1
            if feed.followers == 0:
                del self._feeds[key]

    async def _run(self) -> None:
        while True:
            if not self._feeds:
                self._wanted.clear()
                await self._wanted.wait()
            try:
                if await self._read():
                    await asyncio.sleep(min(GATHER_MAX_S, GATHER_S_PER_STREAM * len(self._feeds)))
            except RedisError:
                log.warning("Redis does not answer; followers read from PostgreSQL meanwhile")
                await asyncio.sleep(RETRY_S)

    async def _read(self) -> bool:
        """One XREAD over everything that is followed. False after silence."""
        cursors = {key: str(feed.cursor) for key, feed in self._feeds.items()}
        reply = await self._redis.xread({self._wake_key: self._wake_cursor, **cursors}, block=BLOCK_MS)
        for name, entries in reply:
            key = name.decode()
            feed = self._feeds.get(key)
            if key == self._wake_key:
                self._wake_cursor = entries[-1][0].decode()
            elif feed is not None and str(feed.cursor) == cursors[key]:
                feed.add(entries)
        return bool(reply)


class Readers:
    """The two readers of one event loop. Each XREAD names every stream of its reader; hence owners' streams, one for
    each open tab and mostly silent, are kept out of the reads that carry deltas."""

    def __init__(self) -> None:
        self.tokens = StreamReader()
        self.owners = StreamReader()


_readers: WeakKeyDictionary[asyncio.AbstractEventLoop, Readers] = WeakKeyDictionary()


def readers() -> Readers:
    """The running loop's readers."""
    loop = asyncio.get_running_loop()
    found = _readers.get(loop)
    if found is None:
        found = _readers[loop] = Readers()
    return found
