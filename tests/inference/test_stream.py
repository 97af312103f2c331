"""The token log: ids, the fence, and what a writer may repeat."""

from __future__ import annotations

import uuid

import pytest

from inference import stream
from inference.stream import EventId, Fenced, Kind, TokenLog
from inference.types import Channel


@pytest.fixture
def generation_id(database: None) -> uuid.UUID:
    return uuid.uuid4()


def _entries(generation_id: uuid.UUID) -> list[tuple[str, str]]:
    found = stream.client().xrange(stream.key(generation_id))
    return [(entry.decode(), fields[b"k"].decode()) for entry, fields in found]


def test_an_epoch_writes_start_deltas_and_end_without_a_gap(generation_id: uuid.UUID) -> None:
    log = TokenLog(generation_id, 3)
    log.open(prompt_tokens=7, dropped_messages=2)
    log.append("one", [1])
    log.append("two", [2, 3], Channel.REASONING)
    log.close()
    assert _entries(generation_id) == [("3-0", "start"), ("3-1", "delta"), ("3-2", "delta"), ("3-3", "end")]
    assert 0 < stream.client().ttl(stream.key(generation_id)) <= stream.EXPIRY_S


def test_events_come_back_as_they_were_written(generation_id: uuid.UUID) -> None:
    log = TokenLog(generation_id, 1)
    log.open(prompt_tokens=7, dropped_messages=2)
    log.append("süß \U0001f469\u200d\U0001f467", [70000, 2], Channel.REASONING)
    entries = stream.client().xrange(stream.key(generation_id))
    start, delta = (stream.decode(EventId.parse(entry.decode()), fields) for entry, fields in entries)
    assert (start.kind, start.prompt_tokens, start.dropped_messages) == (Kind.START, 7, 2)
    assert (delta.text, delta.channel) == ("süß \U0001f469\u200d\U0001f467", Channel.REASONING)
    assert stream.unpack_ids(delta.token_ids) == [70000, 2]


def test_a_zombie_of_an_old_epoch_cannot_write_once_a_new_one_has(generation_id: uuid.UUID) -> None:
    zombie, successor = TokenLog(generation_id, 1), TokenLog(generation_id, 2)
    zombie.open(prompt_tokens=1, dropped_messages=0)
    zombie.append("old", [1])
    successor.open(prompt_tokens=1, dropped_messages=0)
    for attempt in (lambda: zombie.append("late", [2]), zombie.close):
        with pytest.raises(Fenced):
            attempt()
    assert _entries(generation_id) == [("1-0", "start"), ("1-1", "delta"), ("2-0", "start")]


def test_the_fence_shuts_out_the_old_epoch_and_can_be_put_up_twice(generation_id: uuid.UUID) -> None:
    log = TokenLog(generation_id, 1)
    log.open(prompt_tokens=1, dropped_messages=0)
    stream.fence(generation_id, 2)
    stream.fence(generation_id, 2)
    with pytest.raises(Fenced):
        log.append("late", [1])


def test_the_tail_is_what_follows_a_place_without_a_gap(generation_id: uuid.UUID) -> None:
    log = TokenLog(generation_id, 1)
    log.open(prompt_tokens=1, dropped_messages=0)
    for text in ("a", "b", "c"):
        log.append(text, [1])
    log.skip()
    log.append("after the gap", [2])
    assert [event.text for event in stream.tail(generation_id, EventId(1, 1))] == ["b", "c"]
    assert stream.tail(generation_id, EventId(1, 3)) == []


def test_an_entry_that_may_or_may_not_have_arrived_leaves_a_gap(generation_id: uuid.UUID) -> None:
    log = TokenLog(generation_id, 1)
    log.open(prompt_tokens=1, dropped_messages=0)
    # What a broken connection leaves behind: the first entry is there, the other not, and the writer does not know.
    arrived, _ = log.delta("one", [1]), log.delta("lost", [1])
    stream.write_all([arrived])
    log.skip()
    log.append("two", [2])
    assert _entries(generation_id) == [("1-0", "start"), ("1-1", "delta"), ("1-4", "delta")]


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-1", "1-b", "1-2-3", "１-２", "1" * 40 + "-1", "+1-1"])
def test_what_is_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="looks like"):
        EventId.parse(text)


def test_event_ids_are_ordered_as_numbers() -> None:
    assert EventId.parse("1-10") > EventId.parse("1-9") > EventId.parse("0-99")
    assert EventId(1, 9).precedes(EventId(1, 10))
    assert stream.START.precedes(EventId(1, 0))
    assert not stream.START.precedes(EventId(3, 0))
    assert not EventId(1, 9).precedes(EventId(2, 0))
    assert not EventId(1, 9).precedes(EventId(1, 11))
    assert not EventId(1, 9).precedes(EventId(2, 1))
