"""What is left of a conversation that is longer than the room for it."""

from __future__ import annotations

from inference import history
from inference.types import Turn


def test_a_newest_message_of_any_size_and_the_system_turn_are_never_cut() -> None:
    system, long = Turn("system", "s" * 100), Turn("user", "u" * 100)
    assert history.cut([system, Turn("user", "a"), Turn("assistant", "b"), long], 10) == ([system, long], 2)
    assert history.cut([long], 10) == ([long], 0)
    assert history.cut([system, long], 1000) == ([system, long], 0)


def test_what_is_left_begins_with_a_message_of_the_user() -> None:
    turns = [Turn("user", "aaaa"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"), Turn("user", "e")]
    assert history.cut(turns, 4) == (turns[2:], 2)


def test_bytes_are_counted_and_no_characters() -> None:
    turns = [Turn("user", "né"), Turn("assistant", "b"), Turn("user", "c")]
    assert history.cut(turns, 4) == (turns[2:], 2)
    assert history.cut(turns, 5) == (turns, 0)
