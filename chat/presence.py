"""How many connections each session holds open in this web process: sockets, and event streams.

Each costs memory, tasks and a place in the reads of Redis, and a script could open them without end. For the event loop
alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from inference.errors import TooManyConnections

# A person with this many tabs is no person.
CONNECTIONS_MAX = 32

_open: Counter[str] = Counter()


def check(session_key: str) -> None:
    """Raises TooManyConnections where the session may not open one more."""
    if _open.get(session_key, 0) >= CONNECTIONS_MAX:
        raise TooManyConnections(limit=CONNECTIONS_MAX)


@contextmanager
def connected(session_key: str) -> Iterator[None]:
    """Count one connection for as long as it lasts. Raises TooManyConnections."""
    check(session_key)
    _open[session_key] += 1
    try:
        yield
    finally:
        _open[session_key] -= 1
        if not _open[session_key]:
            del _open[session_key]
