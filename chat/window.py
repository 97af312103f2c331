"""Flow control for one follower: how much was sent that the reader has not acknowledged.

Daphne buffers without bound what a client does not read; this bounds it. There is no queue: while there is no room,
nothing is pulled from the log, and what gathers there comes as one piece later.
"""

from __future__ import annotations

import asyncio
from collections import deque

from inference.stream import EventId

UNACKNOWLEDGED_MAX_BYTES = 64 * 1024
PATIENCE_S = 30.0


class SlowReader(Exception):
    """The window was full, and nothing was acknowledged for as long as we wait."""


class Window:
    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._sent: deque[tuple[EventId, int]] = deque()
        self._outstanding = 0
        self._acknowledged = asyncio.Event()

    def sent(self, at: EventId | None, size: int) -> None:
        """Count a frame that reaches event `at`; one without a place in the log is small and not counted."""
        if at is not None:
            self._sent.append((at, size))
            self._outstanding += size

    def acknowledge(self, at: EventId) -> None:
        """The reader has shown everything up to `at`."""
        while self._sent and self._sent[0][0] <= at:
            self._outstanding -= self._sent.popleft()[1]
        self._acknowledged.set()

    async def room(self) -> None:
        """Wait until the next piece may be sent. Raises SlowReader."""
        while self._outstanding >= UNACKNOWLEDGED_MAX_BYTES:
            self._acknowledged.clear()
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._acknowledged.wait()
            except TimeoutError:
                raise SlowReader from None
