"""Texts in pieces, as tokens come."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st


def cut(data: st.DataObject, text: str) -> list[str]:
    """The text in pieces of any length."""
    borders = data.draw(st.lists(st.integers(0, len(text)), max_size=len(text)).map(sorted), label="borders")
    return [text[begin:end] for begin, end in pairwise([0, *borders, len(text)])]
