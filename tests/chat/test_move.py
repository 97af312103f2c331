"""A message that waits for one model can be given to another, once, and by its owner alone."""

from __future__ import annotations

from accounts.guests import ensure_owner
from inference.models import Generation
from tests.browser_client import Guest, Socket
from tests.rows import HandWorker, queued
from tests.stack import ABSENT, TINY, Stack, wait_until
from tests.tiny.replies import HELLO, REPLIES


def _waiting(guest: Guest) -> Generation:
    """A question to a model that nobody serves."""
    prompt = [{"role": "user", "content": HELLO}]
    return queued(ensure_owner(guest.http.cookies["sessionid"]), prompt=prompt)


def _refusal(socket: Socket, generation: Generation, model: str) -> str:
    socket.put(type="move", generation=str(generation.pk), model=model)
    return str(socket.until(lambda frame: frame["type"] == "error")["code"])


def test_what_waits_is_answered_by_the_other_model_and_said_to_be_its(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    generation = _waiting(guest)
    with guest.socket() as socket:
        socket.follow(str(generation.pk))
        assert socket.until(lambda frame: frame["type"] == "queued")["position"] == 1
        for _ in range(2):
            socket.put(type="move", generation=str(generation.pk), model=TINY)
        answer = socket.read(str(generation.pk))
    assert answer.text == REPLIES[HELLO]
    row = Generation.objects.get(pk=generation.pk)
    assert (row.model, row.state, row.epoch) == (TINY, "done", 1)
    stored = guest.conversation(str(generation.message.conversation_id))["messages"][-1]
    assert stored["generation"]["model_name"] == "Tiny"


def test_what_has_begun_stays_with_its_model(stack: Stack, guest: Guest) -> None:
    stack.worker(TINY)
    generation = _waiting(guest)
    worker = HandWorker(generation)
    with guest.socket() as socket:
        assert _refusal(socket, generation, TINY) == "already_started"
        # Handed back in mid-answer it waits again, and still no other model can go on with it.
        worker.write("half")
        assert worker.generation.hand_back(worker.progress)
        assert _refusal(socket, generation, TINY) == "already_started"
        socket.put(type="stop", generation=str(generation.pk))
        wait_until(lambda: Generation.objects.get(pk=generation.pk).is_terminal, "the stop")
        assert _refusal(socket, generation, TINY) == "already_started"


def test_a_model_that_is_unknown_or_away_takes_nothing_over(stack: Stack, guest: Guest) -> None:
    generation = _waiting(guest)
    with guest.socket() as socket:
        assert _refusal(socket, generation, "no-such-model") == "unknown_model"
        assert _refusal(socket, generation, ABSENT) == "no_worker"
        socket.put(type="stop", generation=str(generation.pk))
        wait_until(lambda: Generation.objects.get(pk=generation.pk).state == "cancelled", "the stop")


def test_a_stranger_moves_nothing(stack: Stack, guest: Guest, stranger: Guest) -> None:
    stack.worker(TINY)
    generation = _waiting(guest)
    with stranger.socket() as theirs:
        assert _refusal(theirs, generation, TINY) == "not_found"
    row = Generation.objects.get(pk=generation.pk)
    assert (row.model, row.state) == (generation.model, "queued")
    with guest.socket() as socket:
        socket.put(type="stop", generation=str(generation.pk))
        wait_until(lambda: Generation.objects.get(pk=generation.pk).is_terminal, "the stop")
