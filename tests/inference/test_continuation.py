"""An answer cut off at any token, and what another worker makes of it: the engine is stepped by hand."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest

from accounts.models import User
from inference import recovery
from inference.answers import Answer
from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel, load
from inference.host import Host
from inference.local import LocalModel
from inference.models import Generation
from inference.runner import Runner
from inference.types import Reasoning, ReasoningFormat
from tests.rows import end_lease, queued
from tests.stack import wait_until
from tests.tiny.replies import EMOJI, REPLIES, STORY, STORY_STOP


@pytest.fixture(scope="module")
def loaded(tiny_model_dir: Path) -> LoadedModel:
    return load(tiny_model_dir, device="cpu", dtype="float32", context_length=2048)


def _runner(loaded: LoadedModel, reasoning: Reasoning | None = None) -> tuple[Engine, Runner]:
    """A worker whose engine is stepped by hand; its publisher and its saver run."""
    engine = Engine(loaded, reasoning=reasoning)
    name = f"stepped-{uuid.uuid4().hex}"
    runner = Runner(Host(name=name, model="tiny", served=LocalModel(loaded, engine), slots=2))
    engine.listen(runner.writers.wake)
    runner.writers.start()
    return engine, runner


def _begin(engine: Engine, runner: Runner, generation: Generation) -> tuple[Answer, threading.Thread]:
    """Claim the answer and write it on a thread; its request waits in the engine."""
    claimed = Generation.objects.claim(runner.host.name, model=generation.model, door=generation.door)
    assert claimed == generation
    answer = Answer(claimed)
    writing = threading.Thread(target=runner.answer, args=[answer])
    writing.start()
    wait_until(lambda: engine.stats().waiting, "the request")
    return answer, writing


def _written_by_another_worker(
    loaded: LoadedModel, generation: Generation, *, steps: int, reasoning: Reasoning | None = None
) -> Generation:
    """Let a worker of its own go on with the answer for so many steps, then drain it. The row as it leaves it."""
    engine, runner = _runner(loaded, reasoning)
    _, writing = _begin(engine, runner, generation)
    for _ in range(steps):
        engine.step()
    runner.host.drained = True
    runner.host.cancel(generation.pk)
    engine.step()
    writing.join()
    return Generation.objects.get(pk=generation.pk)


@pytest.mark.parametrize(
    ("question", "stop", "stride"),
    [
        # Cut within what may become the stop string, and within characters of several tokens.
        (STORY, [STORY_STOP], 1),
        (STORY, ["END-OF-THE"], 3),
        (EMOJI, [], 5),
    ],
)
def test_an_answer_that_is_cut_off_at_any_token_reads_as_if_it_had_not_been(
    loaded: LoadedModel, owner: User, question: str, stop: list[str], stride: int
) -> None:
    def asked() -> Generation:
        sampling = {"temperature": 0, "max_tokens": 200, "stop": stop}
        return queued(owner, prompt=[{"role": "user", "content": question}], sampling=sampling)

    whole = _written_by_another_worker(loaded, asked(), steps=200)
    assert whole.state == "done"
    assert whole.text == (REPLIES[question].split(stop[0])[0] if stop else REPLIES[question])
    for steps in range(0, whole.completion_tokens, stride):
        cut = _written_by_another_worker(loaded, asked(), steps=steps)
        assert (cut.state, cut.completion_tokens) == ("queued", steps)
        assert whole.text.startswith(cut.text)
        row = _written_by_another_worker(loaded, cut, steps=200)
        assert (row.state, row.text, row.finish_reason) == ("done", whole.text, whole.finish_reason)
        assert (row.completion_tokens, bytes(row.token_ids)) == (whole.completion_tokens, bytes(whole.token_ids))


def test_an_answer_that_is_cut_off_in_its_thoughts_or_at_their_end_keeps_its_two_channels(
    loaded: LoadedModel, owner: User
) -> None:
    """The tiny model knows no tags; words of its story do as well."""
    reasoning = Reasoning(ReasoningFormat.TAGS, open="Once upon", close=STORY_STOP)

    def asked() -> Generation:
        return queued(
            owner,
            prompt=[{"role": "user", "content": STORY}],
            sampling={"temperature": 0, "max_tokens": 200, "stop": ["ran", "slept"]},
        )

    whole = _written_by_another_worker(loaded, asked(), steps=200, reasoning=reasoning)
    thought, _, answer = REPLIES[STORY].removeprefix("Once upon ").partition(STORY_STOP)
    assert (whole.reasoning, whole.text) == (thought, answer.lstrip().split("ran")[0])
    for steps in range(0, whole.completion_tokens, 2):
        cut = _written_by_another_worker(loaded, asked(), steps=steps, reasoning=reasoning)
        assert whole.reasoning.startswith(cut.reasoning)
        row = _written_by_another_worker(loaded, cut, steps=200, reasoning=reasoning)
        assert (row.state, row.reasoning, row.text) == ("done", whole.reasoning, whole.text)
        assert bytes(row.token_ids) == bytes(whole.token_ids)


def test_an_answer_that_comes_back_to_the_worker_that_lost_it_is_left_alone_by_its_older_run(
    loaded: LoadedModel, owner: User
) -> None:
    """A laptop that sleeps lets every lease run out, and its worker wakes up with the rest."""
    generation = queued(owner, prompt=[{"role": "user", "content": STORY}])
    engine, runner = _runner(loaded)
    old, old_thread = _begin(engine, runner, generation)
    for _ in range(5):
        engine.step()
    end_lease(generation)
    recovery.reap()
    _, new_thread = _begin(engine, runner, generation)
    engine.step()
    wait_until(lambda: old.handle and old.handle.cancelled.is_set(), "the older run's notice")
    engine.step()
    old_thread.join()
    for _ in range(100):
        engine.step()
    new_thread.join()
    row = Generation.objects.get(pk=generation.pk)
    assert (row.state, row.text, row.epoch) == ("done", REPLIES[STORY], 3)


def test_an_engine_that_dies_hands_its_answer_to_another_worker_but_not_a_second_time(
    loaded: LoadedModel, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)
    generation = queued(owner, prompt=[{"role": "user", "content": STORY}])

    def dies_after(steps: int) -> Generation:
        engine, runner = _runner(loaded)
        _, writing = _begin(engine, runner, generation)
        for _ in range(steps):
            engine.step()
        engine._passes._cache._layers[:] = [None]  # neither read nor cleared without an error
        engine.start()
        writing.join()
        return Generation.objects.get(pk=generation.pk)

    row = dies_after(5)
    assert (row.state, row.crashes, row.completion_tokens) == ("queued", 1, 5)
    row = dies_after(3)
    assert (row.state, row.error_code, row.crashes, row.completion_tokens) == ("interrupted", "worker_lost", 1, 8)
    assert REPLIES[STORY].startswith(row.text)
