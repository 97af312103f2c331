"""A conversation that is longer than there is room for loses its oldest turns."""

from __future__ import annotations

from collections.abc import Sequence

from inference.types import Turn


def cut(turns: Sequence[Turn], room_bytes: int) -> tuple[Sequence[Turn], int]:
    """The turns that fit into so many bytes, and how many of the oldest do not.

    A leading system turn and the newest turn stay whatever their size; what stays between begins with a user turn.
    """
    head = turns[:1] if turns and turns[0].role == "system" else turns[:0]
    body = turns[len(head) :]
    first = max(len(body) - 1, 0)
    room_bytes -= size(head) + size(body[first:])
    for place in range(first - 1, -1, -1):
        room_bytes -= size(body[place : place + 1])
        if room_bytes < 0:
            break
        if body[place].role == "user":
            first = place
    return [*head, *body[first:]], first


def size(turns: Sequence[Turn]) -> int:
    """The bytes of their texts."""
    return sum(len(turn.content.encode()) for turn in turns)
