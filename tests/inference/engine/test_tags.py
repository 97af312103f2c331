from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.channels import Piece
from inference.engine.tags import TagSplitter
from inference.types import Channel
from tests.inference.engine.cutting import cut

OPEN, CLOSE = "<think>", "</think>"
OPENING, CLOSING = 1, 2  # ids, where the delimiters are special tokens
SPECIAL = {OPENING: OPEN, CLOSING: CLOSE}
PARTS = [OPEN, CLOSE, "<", "<thi", "nk>", "</", " ", "\n", "a", "\u65e5"]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)


def splitter(*, special: bool = False, opened: bool = False) -> TagSplitter:
    return TagSplitter(OPEN, CLOSE, special=SPECIAL if special else {}, opened=opened)


def split(tags: TagSplitter, parts: list[str | int]) -> tuple[str, str]:
    """Reasoning and answer."""
    pieces: list[Piece] = []
    for part in parts:
        pieces += tags.text(part) if isinstance(part, str) else tags.mark(part)
    pieces += tags.flush()
    assert all(piece.text for piece in pieces)
    channels = [piece.channel for piece in pieces]
    assert channels == sorted(channels, reverse=True), "reasoning comes before the answer"
    return tuple("".join(p.text for p in pieces if p.channel is c) for c in (Channel.REASONING, Channel.ANSWER))


def plainly(text: str, *, opened: bool) -> tuple[str, str]:
    """The same, with all of the text at hand."""
    start = text.lstrip()
    if start.startswith(CLOSE):
        return "", start[len(CLOSE) :].lstrip()
    if start.startswith(OPEN):
        text = start[len(OPEN) :]
    elif not opened:
        return "", text
    reasoning, _, answer = text.partition(CLOSE)
    return reasoning.lstrip(), answer.lstrip()


@settings(max_examples=500)
@given(data=st.data(), text=TEXTS, opened=st.booleans())
def test_any_text_is_split_the_same_however_it_is_cut(data: st.DataObject, text: str, opened: bool) -> None:
    assert split(splitter(opened=opened), [*cut(data, text)]) == plainly(text, opened=opened)


@settings(max_examples=300)
@given(data=st.data(), before=st.sampled_from(["", " ", "\n\n"]), thought=TEXTS, answer=TEXTS, opened=st.booleans())
def test_special_tokens_split_and_their_spelling_does_not(
    data: st.DataObject, before: str, thought: str, answer: str, opened: bool
) -> None:
    opening = [] if opened and data.draw(st.booleans(), label="opened by the prompt alone") else [OPENING]
    parts = [before, *opening, *cut(data, thought), CLOSING, *cut(data, answer)]
    begun = before + thought if not opening else thought
    assert split(splitter(special=True, opened=opened), parts) == (begun.lstrip(), answer.lstrip())


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("opened", [False, True])
def test_a_block_that_is_never_closed_stays_reasoning(special: bool, opened: bool) -> None:
    opening = OPENING if special else OPEN
    assert split(splitter(special=special, opened=opened), [opening, "\n", "Let me see"]) == ("Let me see", "")


def test_half_a_delimiter_at_the_end_is_text_of_its_channel() -> None:
    assert split(splitter(), ["<think>so</thi"]) == ("so</thi", "")
    assert split(splitter(), ["<thi"]) == ("", "<thi")
    assert split(splitter(opened=True), ["\n<thi"]) == ("<thi", "")


def test_delimiters_quoted_in_the_answer_are_text() -> None:
    quoting = "Write <think> and </think> around it."
    assert split(splitter(), [quoting]) == ("", quoting)
    assert split(splitter(), [f"<think>Hm.</think>\n\n{quoting}"]) == ("Hm.", quoting)


def test_special_tokens_out_of_place_are_left_out() -> None:
    assert split(splitter(special=True), ["Hi", OPENING, " there", CLOSING, "!"]) == ("", "Hi there!")
    assert split(splitter(special=True), [OPENING, "a", OPENING, "b", CLOSING, "c", CLOSING, "d"]) == ("ab", "cd")


def test_an_empty_block_leaves_an_answer_alone() -> None:
    assert split(splitter(), ["<think>\n\n</think>\n\nHello!"]) == ("", "Hello!")
    assert split(splitter(opened=True), ["\n</think>Hello!"]) == ("", "Hello!")


def test_whitespace_before_an_answer_without_a_block_is_kept() -> None:
    assert split(splitter(), ["\n  - one\n"]) == ("", "\n  - one\n")
    assert split(splitter(), ["\n \n"]) == ("", "\n \n")


def test_it_knows_whether_the_answer_has_begun() -> None:
    tags = splitter()
    assert (tags.answering, tags.channel) == (True, Channel.ANSWER)
    tags.text("<th")
    assert tags.channel is Channel.REASONING
    tags.text("ink>")
    assert (tags.answering, tags.channel) == (False, Channel.REASONING)
    tags.text("</think>")
    assert (tags.answering, tags.channel) == (True, Channel.ANSWER)
    assert not splitter(opened=True).answering
