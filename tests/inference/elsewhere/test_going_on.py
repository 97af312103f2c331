"""An answer that another worker began goes on in the same sentence, or stays as it is: nothing is said twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inference.served import Resumed, ServedError
from inference.types import FinishReason, Sampling
from tests.inference.elsewhere.conftest import HELLO, SAMPLING, Asking
from tests.inference.elsewhere.server import PROMPT_TOKENS, Exchange, Server, refuses, says

HALF = Resumed(text="Once upon", tokens=2)


def test_a_server_that_can_is_told_how_the_answer_begins(server: Server, asking: Asking) -> None:
    server.script(says(" a", " time."))
    told = asking.ask(resumed=HALF, sampling=Sampling(max_tokens=10, min_tokens=3))
    body = server.asked[0].body
    assert body["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Once upon"},
    ]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["max_tokens"], body["min_tokens"]) == (8, 1)
    assert told.text == " a time."
    assert told.end is not None
    # Of the whole answer, and of the prompt alone: the server's prompt holds what was said as well.
    assert (told.end.completion_tokens, told.end.prompt_tokens) == (4, PROMPT_TOKENS - 2)


@pytest.mark.parametrize(
    ("said", "first", "rest"),
    [
        ("Once:\n", "\n\n1.", "\n1."),
        ("Once:\n\n", "\n\n1.", "1."),
        ("Once ", "upon", "upon"),
        ("Once ", "  upon", " upon"),
    ],
)
def test_whitespace_at_the_cut_is_not_said_twice(
    server: Server, asking: Asking, said: str, first: str, rest: str
) -> None:
    """Servers cut it off what they go on with; so it is not sent, and taken from what comes."""
    server.script(says(*first, " end"))
    told = asking.ask(resumed=Resumed(text=said, tokens=2))
    assert server.asked[0].body["messages"][-1]["content"] == said.rstrip()
    assert told.text == f"{rest} end"


def test_what_follows_is_the_answer_even_if_the_server_takes_it_for_a_thought(server: Server, asking: Asking) -> None:
    async def thinks(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.token(" a time.", name="reasoning")
        await exchange.finish()

    server.script(thinks)
    told = asking.ask(resumed=Resumed(text="Once upon", reasoning="Hm.", tokens=5))
    assert (told.text, told.reasoning) == (" a time.", "")


@pytest.mark.parametrize("owner", ["openai", "", "llamacpp"])
def test_a_server_that_would_begin_again_is_not_asked(
    server: Server, elsewhere: Callable[..., Asking], owner: str
) -> None:
    server.owner = owner
    with pytest.raises(ServedError) as caught:
        elsewhere().begin(resumed=HALF)
    assert caught.value.code == "worker_lost"
    assert server.asked == []


@pytest.mark.parametrize(
    ("owner", "reasons", "resumed"),
    [
        ("vllm", True, Resumed(reasoning="Hm", tokens=1)),
        ("sglang", True, HALF),
        ("sglang", False, Resumed(text="Once", reasoning="Hm", tokens=2)),
    ],
)
def test_a_thought_is_not_gone_on_with(
    server: Server, elsewhere: Callable[..., Asking], owner: str, reasons: bool, resumed: Resumed
) -> None:
    server.owner = owner
    with pytest.raises(ServedError) as caught:
        elsewhere(reasons=reasons).begin(resumed=resumed)
    assert caught.value.code == "worker_lost"


@pytest.mark.parametrize("owner", ["openai", "sglang"])
def test_an_answer_of_which_nothing_was_shown_begins_again_anywhere(
    server: Server, elsewhere: Callable[..., Asking], owner: str
) -> None:
    server.owner = owner
    server.script(says("Once"))
    told = elsewhere(reasons=True).ask(resumed=Resumed(tokens=3))
    assert told.text == "Once"
    assert server.asked[0].body["messages"] == [{"role": "user", "content": "Hello"}]
    assert server.asked[0].body["max_tokens"] == SAMPLING.max_tokens - 3


def test_a_server_that_refuses_the_beginning_leaves_the_answer_interrupted(server: Server, asking: Asking) -> None:
    server.script(refuses(400, "The final message does not appear in the chat."))
    end = asking.ask(HELLO, resumed=HALF).end
    assert end is not None
    assert (end.reason, end.code) == (FinishReason.ERROR, "worker_lost")


def test_an_answer_that_has_all_its_tokens_is_over(server: Server, asking: Asking) -> None:
    end = asking.ask(resumed=Resumed(text="Once upon", tokens=SAMPLING.max_tokens)).end
    assert end is not None
    assert end.reason is FinishReason.LENGTH
    assert server.asked == []
