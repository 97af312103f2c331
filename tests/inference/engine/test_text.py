from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from inference.engine.loading import LoadedModel
from inference.engine.text import HELD_TOKENS, REPLACEMENT, TextStream
from tests.tiny.replies import REPLIES, STORY, STORY_STOP

QUICK = settings(max_examples=150, deadline=None)
TEXTS = st.text(st.characters(exclude_characters=REPLACEMENT, exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def tokenizer(tiny: LoadedModel) -> PreTrainedTokenizerFast:
    return tiny.tokenizer


def pieces(stream: TextStream, ids: list[int]) -> list[str]:
    return [*(stream.feed(token) for token in ids), stream.flush()]


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


@QUICK
@given(text=TEXTS)
def test_the_pieces_of_any_text_joined_are_the_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    found = pieces(TextStream(tokenizer), plain_ids(tokenizer, text))
    assert "".join(found) == text
    assert not any(REPLACEMENT in piece for piece in found)


@QUICK
@given(data=st.data())
def test_random_tokens_give_what_decoding_them_at_once_gives(
    tokenizer: PreTrainedTokenizerFast, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=80))
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    found = "".join(pieces(TextStream(tokenizer), ids))
    assert whole.startswith(found)
    assert found.startswith(whole.rstrip(REPLACEMENT))


@QUICK
@given(data=st.data())
def test_random_bytes_give_what_decoding_them_at_once_gives(
    tokenizer: PreTrainedTokenizerFast, data: st.DataObject
) -> None:
    single = [token for token in range(3, 259) if REPLACEMENT in tokenizer.decode([token])]
    ids = data.draw(st.lists(st.sampled_from(single), max_size=120))
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    found = "".join(pieces(TextStream(tokenizer), ids))
    assert whole.startswith(found)
    assert found.startswith(whole.rstrip(REPLACEMENT))


@QUICK
@given(before=TEXTS, after=TEXTS, stop=st.lists(TEXTS.filter(bool), min_size=1, max_size=4))
def test_the_text_ends_before_the_first_stop_string(
    tokenizer: PreTrainedTokenizerFast, before: str, after: str, stop: list[str]
) -> None:
    text = f"{before}{stop[0]}{after}"
    stream = TextStream(tokenizer, stop)
    found = "".join(pieces(stream, plain_ids(tokenizer, text)))
    assert stream.stopped
    assert text.startswith(found)
    assert not any(word in found for word in stop)


def test_a_stop_string_across_tokens_never_shows_any_of_itself(tokenizer: PreTrainedTokenizerFast) -> None:
    stream, shown = TextStream(tokenizer, [STORY_STOP]), ""
    for token in plain_ids(tokenizer, REPLIES[STORY]):
        shown += stream.feed(token)
        assert "E" not in shown
    assert stream.stopped
    assert shown == REPLIES[STORY].split(STORY_STOP)[0]
    assert stream.flush() == ""


def test_what_only_looked_like_a_stop_string_is_given_out(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tokenizer, ["END-OF-FILE"])
    assert "".join(pieces(stream, plain_ids(tokenizer, "It was the END-OF"))) == "It was the END-OF"
    assert not stream.stopped


def test_text_flows_on_while_nothing_looks_like_a_stop_string(tokenizer: PreTrainedTokenizerFast) -> None:
    stream, ids = TextStream(tokenizer, ["###"]), plain_ids(tokenizer, "one two three")
    assert all(stream.feed(token) for token in ids)


def test_special_tokens_give_no_text_even_within_a_character(tokenizer: PreTrainedTokenizerFast) -> None:
    first, *rest = plain_ids(tokenizer, "\u20ac")
    stream = TextStream(tokenizer)
    assert "".join(stream.feed(token) for token in (first, tokenizer.eos_token_id, *rest)) == "\u20ac"


def test_an_incomplete_last_character_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(TextStream(tokenizer), plain_ids(tokenizer, "a\u20ac")[:-1]) == ["a", "", "", ""]


def test_a_long_run_of_bytes_is_not_decoded_again_for_each_token(tokenizer: PreTrainedTokenizerFast) -> None:
    [broken] = [token for token in range(3, 259) if tokenizer.convert_ids_to_tokens(token) == "\u00ff"]
    stream = TextStream(tokenizer)
    found = "".join(stream.feed(broken) for _ in range(1000))
    assert found
    assert len(stream._pending) <= HELD_TOKENS
