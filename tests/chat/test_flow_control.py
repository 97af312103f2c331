"""A reader who does not keep up costs the server a window, not a queue."""

from __future__ import annotations

import asyncio

import pytest

from accounts.guests import ensure_owner
from chat.window import UNACKNOWLEDGED_MAX_BYTES, SlowReader, Window
from inference.stream import EventId
from tests.browser_client import Guest
from tests.rows import HandWorker, queued

PIECE = "0123456789" * 100


def test_without_an_acknowledgement_a_window_is_sent_and_with_it_the_rest_as_one_piece(guest: Guest) -> None:
    generation = queued(ensure_owner(guest.http.cookies["sessionid"]))
    worker = HandWorker(generation)
    with guest.socket() as socket:
        socket.follow(str(generation.pk))
        socket.until(lambda frame: frame["type"] == "started")
        received, last = 0, ""
        # Each piece is seen before the next is written, until the window is full.
        while received < UNACKNOWLEDGED_MAX_BYTES:
            worker.write(PIECE)
            frame = socket.until(lambda frame: frame["type"] == "delta")
            received += len(frame["text"]) + 150
            last = frame["id"]
        for _ in range(100):
            worker.write(PIECE)
        for late in socket.rest(silence_s=1.0):
            received += len(late.get("text", ""))
            last = late.get("id", last)
        assert received < 2 * UNACKNOWLEDGED_MAX_BYTES
        socket.put(type="ack", generation=str(generation.pk), id=last)
        rest = socket.until(lambda frame: frame["type"] == "delta")
        assert len(rest["text"]) > UNACKNOWLEDGED_MAX_BYTES
        assert rest["id"] == str(EventId(1, worker.log.seq))
        socket.put(type="ack", generation=str(generation.pk), id=rest["id"])
        worker.finish()
        assert socket.until(lambda frame: frame["type"] == "done")["state"] == "done"


def test_a_reader_who_acknowledges_nothing_for_too_long_is_given_up() -> None:
    async def wait() -> None:
        window = Window(patience_s=0.05)
        window.sent(EventId(1, 1), UNACKNOWLEDGED_MAX_BYTES)
        with pytest.raises(SlowReader):
            await window.room()

    asyncio.run(wait())


def test_an_acknowledgement_counts_for_everything_up_to_it() -> None:
    async def wait() -> None:
        window = Window(patience_s=0.05)
        for seq in range(1, 5):
            window.sent(EventId(1, seq), UNACKNOWLEDGED_MAX_BYTES)
        window.acknowledge(EventId(1, 3))
        with pytest.raises(SlowReader):
            await window.room()
        window.acknowledge(EventId(1, 4))
        await window.room()

    asyncio.run(wait())
