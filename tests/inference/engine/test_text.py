from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from inference.engine.loading import LoadedModel
from inference.engine.text import HELD_TOKENS, REPLACEMENT, TextStream

QUICK = settings(max_examples=150, deadline=None)
TEXTS = st.text(st.characters(exclude_characters=REPLACEMENT, exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def tokenizer(tiny: LoadedModel) -> PreTrainedTokenizerFast:
    return tiny.tokenizer


@pytest.fixture(scope="module")
def byte_fallback() -> PreTrainedTokenizerFast:
    """Like Llama 2's and Gemma's: a mark begins a word, and what has no token of its own is spelt in bytes."""
    tokens = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "\u2581a", "\u2581b"]
    merges = [("\u2581", "a"), ("\u2581", "b")]
    backend = Tokenizer(
        models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


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


def test_after_a_long_run_of_bytes_text_flows_token_by_token_again(tokenizer: PreTrainedTokenizerFast) -> None:
    [broken] = [token for token in range(3, 259) if tokenizer.convert_ids_to_tokens(token) == "\u00ff"]
    stream = TextStream(tokenizer)
    for token in [broken] * 50:
        stream.feed(token)
    ids = plain_ids(tokenizer, " one two three")
    assert [stream.feed(token) for token in ids][1:] == [tokenizer.decode([token]) for token in ids[1:]]


def test_what_follows_a_flush_is_text_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    half, whole = plain_ids(tokenizer, "\u20ac")[:2], plain_ids(tokenizer, "a\u20ac")
    stream = TextStream(tokenizer)
    assert pieces(stream, half)[-1] == ""
    assert "".join(pieces(stream, whole)) == "a\u20ac"


def test_bytes_that_spoil_those_before_them_take_back_nothing(byte_fallback: PreTrainedTokenizerFast) -> None:
    stream = TextStream(byte_fallback)
    ids = byte_fallback.convert_tokens_to_ids(["<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "\u2581b", "\u2581a"])
    shown = [stream.feed(token) for token in ids]
    assert shown[:4] == ["", "", "\u20ac", ""]
    assert shown[4].strip(REPLACEMENT) == " b"
    assert shown[5] == " a"


@QUICK
@given(words=st.lists(st.sampled_from(["\u20ac", "a", "b", " ", "\U0001f469"]), max_size=30))
def test_text_spelt_in_bytes_comes_out_whole(byte_fallback: PreTrainedTokenizerFast, words: list[str]) -> None:
    text = "".join(words)
    ids = byte_fallback.encode(text, add_special_tokens=False)
    found = pieces(TextStream(byte_fallback), ids)
    assert "".join(found) == byte_fallback.decode(ids)
    assert not any(REPLACEMENT in piece for piece in found)
