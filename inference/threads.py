"""Database operations of asynchronous code: each is one synchronous function, run once on a thread of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from channels.db import database_sync_to_async

T = TypeVar("T")


async def on_thread(operation: Callable[[], T]) -> T:
    """Run a database operation off the event loop, its connection closed behind it.

    Not thread-sensitive: that would put every socket's operations on one thread, and one that waits for a lock would
    hold up all others.
    """
    return cast(T, await database_sync_to_async(operation, thread_sensitive=False)())
