"""Which workers live: each announces itself in Redis every few seconds, and is forgotten when it stops to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from inference.stream import client

HEARTBEAT_S = 3.0
EXPIRY_S = 15
INDEX = "workers"


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


def announce(announcement: Announcement) -> None:
    with client().pipeline(transaction=False) as pipe:
        pipe.sadd(INDEX, announcement.worker)
        pipe.set(_key(announcement.worker), json.dumps(asdict(announcement)), ex=EXPIRY_S)
        pipe.execute()


def retire(worker: str) -> None:
    """Leave the list at once, so that nothing new is sent to a model that is going away."""
    with client().pipeline(transaction=False) as pipe:
        pipe.srem(INDEX, worker)
        pipe.delete(_key(worker))
        pipe.execute()


def living() -> list[Announcement]:
    """The workers that have announced themselves within EXPIRY_S, by name. Two Redis calls; raises RedisError."""
    names = sorted(name.decode() for name in client().smembers(INDEX))
    values = client().mget([_key(name) for name in names]) if names else []
    gone = [name for name, value in zip(names, values, strict=True) if value is None]
    if gone:
        client().srem(INDEX, *gone)
    return [Announcement(**json.loads(value)) for value in values if value is not None]


def _key(worker: str) -> str:
    return f"worker:{worker}"
