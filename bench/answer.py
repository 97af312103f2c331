"""A browser's view of one answer: its frames, timed as they come, beside what PostgreSQL noted of it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
from websockets.sync.client import ClientConnection

from inference.models import Generation

ACK_S = 1.0
# The way to the first character, in its order; each place is timed by whoever stands there.
PLACES = {
    "stored": "send → row written",
    "accepted": "→ accepted frame at the client",
    "claimed": "→ claimed by the worker",
    "started": "→ prompt built, started frame at the client",
    "sampled": "→ first token sampled",
    "first": "→ first delta at the client",
}


class Frame(msgspec.Struct):
    """What matters here of the frames of docs/protocol.md."""

    type: str
    generation: str = ""
    id: str = ""
    message: str = ""
    usage: dict[str, int] | None = None


_decoder = msgspec.json.Decoder(Frame)


@dataclass(frozen=True, slots=True)
class Answer:
    """first_s and last_s: when the first and the last text came, in seconds since the send."""

    first_s: float
    last_s: float
    tokens: int
    steps_ms: dict[str, float]

    @property
    def tokens_per_s(self) -> float:
        return (self.tokens - 1) / (self.last_s - self.first_s)


def ask(socket: ClientConnection, prompt: str, *, model: str, max_tokens: int) -> Answer:
    """Send a message in a new conversation and read its answer to the end. Blocks; RuntimeError where it is refused."""
    # Wall-clock times: PostgreSQL and the worker note theirs by the same clock, on this machine.
    sent = time.time()
    options = {"temperature": 0, "max_tokens": max_tokens}
    _put(socket, type="send", key=str(uuid.uuid4()), content=prompt, model=model, options=options)
    seen: dict[str, float] = {}
    acknowledged = sent
    while True:
        frame = _decoder.decode(socket.recv())
        now = time.time()
        seen.setdefault(frame.type, now)
        if frame.type == "error":
            raise RuntimeError(frame.message)
        if frame.type == "done":
            break
        if frame.type == "delta":
            seen["last"] = now
            if now - acknowledged >= ACK_S:
                _put(socket, type="ack", generation=frame.generation, id=frame.id)
                acknowledged = now
    assert frame.usage is not None
    steps = _steps(sent, seen, Generation.objects.get(pk=frame.generation))
    return Answer(seen["delta"] - sent, seen["last"] - sent, frame.usage["completion_tokens"], steps)


def _steps(sent: float, seen: dict[str, float], row: Generation) -> dict[str, float]:
    """How long each stretch between two PLACES took, in milliseconds."""
    assert row.started_at is not None
    assert row.first_token_at is not None
    moments = {
        "stored": row.created_at.timestamp(),
        "accepted": seen["accepted"],
        "claimed": row.started_at.timestamp(),
        "started": seen["started"],
        "sampled": row.first_token_at.timestamp(),
        "first": seen["delta"],
    }
    stretches = pairwise([sent, *(moments[place] for place in PLACES)])
    return {place: (after - before) * 1000 for place, (before, after) in zip(PLACES, stretches, strict=True)}


def _put(socket: ClientConnection, **frame: Any) -> None:
    socket.send(msgspec.json.encode(frame).decode())
