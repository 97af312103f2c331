from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from inference.engine.answer import AnswerText
from inference.engine.engine import Engine
from inference.engine.harmony import Mark
from inference.engine.loading import LoadedModel
from inference.engine.prompts import build
from inference.engine.reasoning import AnswerFormat
from inference.types import Channel, Delta, Finished, FinishReason, Reasoning, ReasoningFormat, Sampling, Turn
from tests.tiny.replies import COUNT, REPLIES, STORY, STORY_STOP

THINK = Reasoning(ReasoningFormat.TAGS, "<think>", "</think>")
HARMONY = Reasoning(ReasoningFormat.HARMONY)
GREEDY = Sampling(temperature=0, max_tokens=1024)
# The tiny model knows no tags; words of its story do as well.
STORIED = Reasoning(ReasoningFormat.TAGS, "Once upon", STORY_STOP)
QUICK = settings(max_examples=150, deadline=None)

Split = tuple[str, str]


@pytest.fixture(scope="module")
def extended(tiny_model_dir: Path) -> Callable[..., PreTrainedTokenizerFast]:
    """The tiny model's tokenizer with more tokens."""

    def extend(*tokens: str, special: bool) -> PreTrainedTokenizerFast:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
        tokenizer.add_tokens(list(tokens), special_tokens=special)
        return tokenizer

    return extend


def read(text: AnswerText, ids: list[int]) -> list[tuple[Channel, str]]:
    return [(piece.channel, piece.text) for piece in (*map(text.feed, ids), *text.flush())]


def split(deltas: list[tuple[Channel, str]]) -> Split:
    reasoning, answer = ("".join(text for c, text in deltas if c is channel) for channel in reversed(Channel))
    return reasoning, answer


def answered(engine: Engine, prompt: tuple[int, ...], sampling: Sampling = GREEDY, **more: list[int]) -> list[Delta]:
    handle = engine.submit(prompt, sampling, **more)
    while engine.step():
        pass
    *deltas, end = list(handle)
    assert isinstance(end, Finished)
    return deltas


def texts(deltas: list[Delta]) -> Split:
    return split([(delta.channel, delta.text) for delta in deltas])


@pytest.mark.parametrize("kind", ["special", "added", "ordinary"])
def test_delimiters_of_any_kind_of_token_are_split_at(
    extended: Callable[..., PreTrainedTokenizerFast], kind: str
) -> None:
    tokenizer = extended(*([] if kind == "ordinary" else ["<think>", "</think>"]), special=kind == "special")
    ids = tokenizer.encode("<think>\nIs it 4?\n</think>\n\nIt is 4.")
    assert split(read(AnswerFormat(tokenizer, THINK).answer([5]), ids)) == ("Is it 4?\n", "It is 4.")


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("Hi<|im_end|>\n<|im_start|>assistant\n<think>\n", ("4", "5")),
        ("Hi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", ("", "4</think>\n5")),
        ("<think><|im_end|>\n<|im_start|>assistant\n", ("", "4</think>\n5")),
    ],
)
def test_the_end_of_the_prompt_says_whether_reasoning_has_begun(
    extended: Callable[..., PreTrainedTokenizerFast], special: bool, prompt: str, found: Split
) -> None:
    tokenizer = extended("<think>", "</think>", special=special)
    text = AnswerFormat(tokenizer, THINK).answer(tokenizer.encode(prompt))
    expected = (found[0], found[1].replace("</think>", "")) if special else found
    assert split(read(text, tokenizer.encode("4</think>\n5"))) == expected


def test_a_delimiter_within_a_character_leaves_out_its_half(extended: Callable[..., PreTrainedTokenizerFast]) -> None:
    tokenizer = extended("<think>", "</think>", special=True)
    opening, closing = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    half = tokenizer.encode("\u65e5")[:2]
    ids = [opening, *tokenizer.encode("a"), *half, closing, *tokenizer.encode("\u65e5b")]
    assert split(read(AnswerFormat(tokenizer, THINK).answer([5]), ids)) == ("a", "\u65e5b")


def test_harmony_is_split_by_its_tokens_and_not_by_their_spelling(
    extended: Callable[..., PreTrainedTokenizerFast],
) -> None:
    tokenizer = extended(*(mark.value for mark in Mark), special=True)
    text = AnswerFormat(tokenizer, HARMONY).answer(tokenizer.encode("<|end|><|start|>assistant"))
    spelt = tokenizer.encode("<|end|>", split_special_tokens=True)
    ids = tokenizer.encode("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A ")
    assert split(read(text, [*ids, *spelt])) == ("Hm.", "A <|end|>")


def test_a_tokenizer_without_the_tokens_of_harmony_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match=r"no token <\|start\|>"):
        Engine(tiny, reasoning=HARMONY)
    with pytest.raises(ValueError, match="both"):
        Engine(tiny, reasoning=Reasoning(ReasoningFormat.TAGS, open="<think>"))


@QUICK
@given(data=st.data())
def test_whoever_goes_on_after_any_token_gives_out_just_the_rest(tiny: LoadedModel, data: st.DataObject) -> None:
    parts = st.sampled_from(["<think>", "</think>", "<thi", "</", "STOP", "ST", " ", "\n", "it is ", "\u65e5", "a>"])
    ids = tiny.tokenizer.encode("".join(data.draw(st.lists(parts, max_size=12))))
    taken = data.draw(st.integers(0, len(ids)))
    answers = AnswerFormat(tiny.tokenizer, THINK)
    whole, resumed = answers.answer([5], ["STOP"]), answers.answer([5], ["STOP"])
    given_out = [whole.feed(token) for token in ids[:taken]]
    for token in ids[:taken]:
        resumed.feed(token)
    rest = read(resumed, ids[taken:])
    assert read(whole, ids[taken:]) == rest
    first = [(piece.channel, piece.text) for piece in given_out]
    assert split([*first, *rest]) == split(read(answers.answer([5], ["STOP"]), ids))


def test_an_answer_comes_in_two_channels(tiny: LoadedModel) -> None:
    deltas = answered(Engine(tiny, reasoning=STORIED), build(tiny, [Turn("user", STORY)], 1024).ids)
    thought, answer = REPLIES[STORY].removeprefix("Once upon ").split(STORY_STOP)
    assert texts(deltas) == (thought, answer.lstrip())
    assert all(delta.token_ids for delta in deltas)
    places = [place for place, delta in enumerate(deltas) if delta.channel is Channel.REASONING]
    assert places == [*range(places[0], places[-1] + 1)], "the delimiters' tokens count as reasoning"


def test_a_block_opened_by_the_template_is_reasoning_from_the_first_token(tiny: LoadedModel) -> None:
    opened = Reasoning(ReasoningFormat.TAGS, "<|im_start|>assistant", STORY_STOP)
    deltas = answered(Engine(tiny, reasoning=opened), build(tiny, [Turn("user", STORY)], 1024).ids)
    assert texts(deltas)[0] == REPLIES[STORY].split(STORY_STOP)[0]
    assert deltas[0].channel is Channel.REASONING


def test_a_block_that_is_never_closed_leaves_an_empty_answer_that_ends(tiny: LoadedModel) -> None:
    opened = Reasoning(ReasoningFormat.TAGS, "<|im_start|>assistant", "</think>")
    deltas = answered(Engine(tiny, reasoning=opened), build(tiny, [Turn("user", STORY)], 1024).ids)
    assert texts(deltas) == (REPLIES[STORY], "")


def test_stop_strings_hold_for_the_answer_alone(tiny: LoadedModel) -> None:
    engine, prompt = Engine(tiny, reasoning=STORIED), build(tiny, [Turn("user", STORY)], 1024).ids
    within = replace(GREEDY, stop=("slept",))
    assert texts(answered(engine, prompt, within)) == texts(answered(engine, prompt))
    assert texts(answered(engine, prompt, replace(GREEDY, stop=("woke",))))[1] == "After that it "


@pytest.mark.parametrize("taken", [1, 2, 9, 15, 16, 17, 18, 19, 25])
def test_another_engine_goes_on_in_the_same_channel(tiny: LoadedModel, taken: int) -> None:
    prompt = build(tiny, [Turn("user", STORY)], 1024).ids
    whole = answered(Engine(tiny, reasoning=STORIED), prompt)
    saved = [token for delta in whole[:taken] for token in delta.token_ids]
    rest = answered(Engine(tiny, reasoning=STORIED), prompt, resume_ids=saved)
    assert rest == whole[taken:]


def test_the_end_of_max_tokens_in_mid_thought_is_an_end(tiny: LoadedModel) -> None:
    opened = Reasoning(ReasoningFormat.TAGS, "<|im_start|>assistant", "</think>")
    engine = Engine(tiny, reasoning=opened)
    handle = engine.submit(build(tiny, [Turn("user", COUNT)], 1024).ids, replace(GREEDY, max_tokens=3))
    while engine.step():
        pass
    *deltas, end = list(handle)
    assert (texts(deltas), end) == (("1 2 3", ""), Finished(FinishReason.LENGTH))
