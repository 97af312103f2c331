"""Many guests on one worker: all stream at once, and a place that becomes free is taken at once."""

from __future__ import annotations

from contextlib import ExitStack

from inference import workers
from inference.models import Generation
from tests.browser_client import Guest
from tests.stack import CROWD, Stack, wait_until
from tests.tiny.replies import COUNT, HELLO, REPLIES

GUESTS = 32
LONG = {"max_tokens": 400}


def test_thirty_two_guests_stream_at_once_and_a_stop_lets_the_next_one_in(stack: Stack) -> None:
    worker = stack.worker(CROWD)
    with ExitStack() as visits:
        sockets = [visits.enter_context(visits.enter_context(Guest(stack.base)).socket()) for _ in range(GUESTS + 1)]
        *crowd, last = sockets
        sent = [socket.ask(COUNT, CROWD, options=LONG) for socket in crowd]
        said = [
            socket.read(asked["generation"], until=lambda answer: answer.text)
            for socket, asked in zip(crowd, sent, strict=True)
        ]
        assert all(answer.done is None for answer in said)
        running = Generation.objects.filter(pk__in=[asked["generation"] for asked in sent], state="running")
        assert running.count() == GUESTS

        waiting = last.ask(HELLO, CROWD)
        assert last.until(lambda frame: frame["type"] == "queued")["position"] == 1
        stopped = crowd[0].read(sent[0]["generation"], said[0], until=lambda answer: len(answer.text) > 60)
        crowd[0].put(type="stop", generation=sent[0]["generation"])
        crowd[0].read(sent[0]["generation"], stopped)
        assert stopped.done["state"] == "cancelled"
        answer = last.read(waiting["generation"])
        assert (answer.text, answer.done["state"]) == (REPLIES[HELLO], "done")
        # The place was the stopped one's: the others have theirs still.
        assert running.count() == GUESTS - 1

        for socket, asked in zip(crowd[1:], sent[1:], strict=True):
            socket.stop_all([asked])
        name = stack.name_of(worker)
        wait_until(lambda: next(one for one in workers.living() if one.worker == name).running == 0, "an idle engine")
