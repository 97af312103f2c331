from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.stops import StopStrings
from tests.inference.engine.cutting import cut

WORDS = st.text("abc", min_size=1, max_size=5)
TEXTS = st.text("abc", max_size=40)


@settings(max_examples=500)
@given(data=st.data(), text=TEXTS, words=st.lists(WORDS, max_size=4))
def test_the_text_ends_before_the_first_stop_string_however_it_is_cut(
    data: st.DataObject, text: str, words: list[str]
) -> None:
    stop = StopStrings(words)
    found = "".join(stop.feed(piece) for piece in cut(data, text)) + stop.flush()
    # The first that is complete ends it; of two that are so at once, the one that begins first.
    places = sorted((text.find(word) + len(word), text.find(word)) for word in words if word in text)
    assert stop.stopped is bool(places)
    assert found == (text[: places[0][1]] if places else text)


@given(text=TEXTS)
def test_without_stop_strings_all_is_given_out_at_once(text: str) -> None:
    assert StopStrings([]).feed(text) == text


def test_text_flows_on_while_nothing_looks_like_a_stop_string() -> None:
    stop = StopStrings(["###"])
    assert [stop.feed(piece) for piece in ("one", " two #", "three")] == ["one", " two ", "#three"]


def test_what_only_looked_like_a_stop_string_is_given_out_at_the_end() -> None:
    stop = StopStrings(["END-OF-FILE"])
    assert (stop.feed("It was the END-OF"), stop.flush(), stop.stopped) == ("It was the ", "END-OF", False)


def test_nothing_comes_after_a_stop_string() -> None:
    stop = StopStrings(["b"])
    assert [stop.feed("abc"), stop.feed("d"), stop.flush()] == ["a", "", ""]
