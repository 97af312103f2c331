"""A worker of an engine elsewhere is ready while the server lists its model, and comes back by itself."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from inference.served import ServedError
from tests.inference.elsewhere.conftest import Asking
from tests.inference.elsewhere.server import REPLY, Server
from tests.stack import wait_until


def test_it_is_ready_while_the_server_answers_and_again_when_it_comes_back(server: Server, asking: Asking) -> None:
    assert asking.model.ready
    server.stop_listening()
    wait_until(lambda: not asking.model.ready, "the loss", 5)
    assert asking.model.alive
    server.listen_again()
    wait_until(lambda: asking.model.ready, "the return", 5)
    assert asking.ask().text == "".join(REPLY)


def test_one_lost_look_takes_nobody_off_the_list(server: Server, asking: Asking) -> None:
    server.lose_looks = 1
    wait_until(lambda: server.lose_looks == 0, "the lost look", 5)
    looks = len(server.exchanges)
    while len(server.exchanges) < looks + 2:
        assert asking.model.ready


@pytest.mark.parametrize("names", [[], ["org/other"]])
def test_a_model_that_the_server_does_not_list_is_not_ready(
    server: Server, elsewhere: Callable[..., Asking], names: list[str]
) -> None:
    server.names = names
    asking = elsewhere(name="org/large")
    assert not asking.model.ready
    server.names = [*names, "org/large"]
    wait_until(lambda: asking.model.ready, "the model", 5)
    assert asking.ask().text == "".join(REPLY)


def test_a_server_that_is_not_there_does_not_hold_up_the_start(elsewhere: Callable[..., Asking]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens on it
        began = time.monotonic()
        asking = elsewhere(url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        assert time.monotonic() - began < 2
        assert (asking.model.ready, asking.model.alive, asking.model.revision) == (False, True, "")
        with pytest.raises(ServedError) as caught:
            asking.begin()
        assert caught.value.code == "model_unreachable"


def test_a_name_that_nobody_knows_is_a_server_that_is_not_there(elsewhere: Callable[..., Asking]) -> None:
    assert not elsewhere(url="http://nowhere.invalid:8000/v1").model.ready


def test_an_address_that_lists_no_models_is_not_ready(server: Server, elsewhere: Callable[..., Asking]) -> None:
    server.listing = {"hello": "world"}
    assert not elsewhere().model.ready


def test_it_tells_what_the_server_says_of_itself(server: Server, asking: Asking) -> None:
    assert (asking.model.revision, asking.model.device) == ("/weights/org/large", "elsewhere")
    assert asking.model.load().kv_share == 0.0
    asking.ask()
    wait_until(lambda: asking.model.load().tokens_per_s > 0, "the speed", 5)
