"""Which workers live: each announces itself in Redis every few seconds, and is forgotten when it stops to.

A worker that still loads its model announces that instead; nothing is sent to it yet.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TypeVar

from redis.exceptions import RedisError

from inference.stream import client

HEARTBEAT_S = 3.0
EXPIRY_S = 15


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker says of itself once its model is loaded.

    memory_bytes is its resident set; kv_share is how much of the room for keys and values is held, from 0 to 1.
    """

    worker: str
    model: str
    revision: str
    device: str
    dtype: str
    context_length: int
    slots: int
    running: int
    waiting: int
    tokens_per_s: float
    kv_share: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Loading:
    """A worker on its way: how much of its model is in memory, from 0 to 1."""

    worker: str
    model: str
    share: float


Notice = TypeVar("Notice", Announcement, Loading)
_KINDS: dict[type, str] = {Announcement: "worker", Loading: "loading"}


def announce(notice: Announcement | Loading) -> None:
    """Say it for the next EXPIRY_S. Raises RedisError."""
    kind = _KINDS[type(notice)]
    with client().pipeline(transaction=False) as pipe:
        pipe.sadd(_index(kind), notice.worker)
        pipe.set(_key(kind, notice.worker), json.dumps(asdict(notice)), ex=EXPIRY_S)
        pipe.execute()


def retire(worker: str) -> None:
    """Leave the lists at once, so that nothing new is sent to a model that is going away. Raises RedisError."""
    with client().pipeline(transaction=False) as pipe:
        for kind in _KINDS.values():
            pipe.srem(_index(kind), worker)
            pipe.delete(_key(kind, worker))
        pipe.execute()


def living() -> list[Announcement]:
    """The workers that have announced themselves within EXPIRY_S, by name. Two Redis calls; raises RedisError."""
    return _heard(Announcement)


def loading() -> list[Loading]:
    """The workers that load their models, by name. One Redis call where there are none; raises RedisError."""
    return _heard(Loading)


@contextmanager
def announced_as_loading(worker: str, model: str) -> Iterator[Callable[[float], None]]:
    """Announce that a worker loads its model, until the block ends. What it gives takes the share, from 0 to 1."""
    share = 0.0
    changed, over = threading.Event(), threading.Event()

    def tell(now: float) -> None:
        nonlocal share
        share = now
        changed.set()

    def beat() -> None:
        while not over.is_set():
            with suppress(RedisError):
                announce(Loading(worker, model, round(share, 3)))
            changed.clear()
            # At most one a second, and at least one a heartbeat.
            over.wait(1.0)
            changed.wait(HEARTBEAT_S - 1.0)

    thread = threading.Thread(target=beat, name="loading", daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        over.set()
        changed.set()
        thread.join()
        with suppress(RedisError):
            retire(worker)


def _heard(of: type[Notice]) -> list[Notice]:
    kind = _KINDS[of]
    names = sorted(name.decode() for name in client().smembers(_index(kind)))
    values = client().mget([_key(kind, name) for name in names]) if names else []
    gone = [name for name, value in zip(names, values, strict=True) if value is None]
    if gone:
        client().srem(_index(kind), *gone)
    return [of(**json.loads(value)) for value in values if value is not None]


def _index(kind: str) -> str:
    return f"{kind}s"


def _key(kind: str, worker: str) -> str:
    return f"{kind}:{worker}"
