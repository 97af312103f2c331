"""What a worker's answers say is written for all at once, and no answer can hold up or spoil another."""

from __future__ import annotations

import queue
import threading

import pytest

from accounts.models import User
from inference import stream
from inference.answers import Answer
from inference.models import Generation
from inference.types import Channel, Delta, Finished, FinishReason
from inference.writers import EMIT_S, Writers
from tests.rows import queued
from tests.stack import wait_until

WORKER = "writing"
STOP = Finished(FinishReason.STOP)


class Dictated:
    """A handle that gives out what the test says."""

    def __init__(self, *events: Delta | Finished) -> None:
        self.cancelled = threading.Event()
        self._events: queue.SimpleQueue[Delta | Finished] = queue.SimpleQueue()
        self.say(*events)

    def say(self, *events: Delta | Finished) -> None:
        for event in events:
            self._events.put(event)

    def get(self, timeout: float | None = None) -> Delta | Finished | None:
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def cancel(self) -> None:
        self.cancelled.set()


@pytest.fixture
def writers(database: None) -> Writers:
    writers = Writers(WORKER)
    writers.start()
    return writers


def _answer(owner: User, *events: Delta | Finished) -> Answer:
    """A claimed answer with its log open, and what its engine gives out."""
    generation = queued(owner)
    claimed = Generation.objects.claim(WORKER, model=generation.model, door=generation.door)
    assert claimed == generation
    answer = Answer(claimed)
    answer.handle = Dictated(*events)
    answer.open(prompt_tokens=3, dropped_messages=0)
    return answer


def _deltas(answer: Answer) -> list[tuple[str, str, int]]:
    entries = stream.client().xrange(stream.key(answer.generation.pk))
    events = [stream.decode(stream.EventId.parse(entry.decode()), fields) for entry, fields in entries]
    return [(event.text, event.channel, event.tokens) for event in events if event.kind is stream.Kind.DELTA]


def _said(words: str) -> list[Delta]:
    return [Delta((number,), word) for number, word in enumerate(words.split(" "))]


def test_what_was_given_out_between_two_turns_is_one_entry_for_each_channel(writers: Writers, owner: User) -> None:
    thoughts = [Delta((7,), "hm", Channel.REASONING), Delta((8,), "m", Channel.REASONING)]
    answer = _answer(owner, *thoughts, *_said("a b c"), Delta((), "held back"), STOP)
    writers.add(answer)
    assert answer.over.wait(10)
    assert _deltas(answer) == [("hmm", "reasoning", 2), ("abc", "answer", 3)]
    progress = answer.last()
    assert (progress.text, progress.reasoning) == ("abcheld back", "hmm")
    assert (progress.tokens, progress.reasoning_tokens) == (5, 2)
    answer.close()
    assert _deltas(answer)[-1] == ("held back", "answer", 0)


def test_tokens_whose_ids_are_unknown_are_counted_all_the_same(writers: Writers, owner: User) -> None:
    answer = _answer(owner, Delta((), "three words here", unnamed=3), STOP)
    writers.add(answer)
    assert answer.over.wait(10)
    assert _deltas(answer) == [("three words here", "answer", 3)]
    assert (answer.last().tokens, answer.last().token_ids) == (3, ())


def test_a_log_that_refuses_an_entry_holds_up_no_other_and_loses_no_text(writers: Writers, owner: User) -> None:
    broken, sound = _answer(owner, *_said("one two"), STOP), _answer(owner, *_said("three four"), STOP)
    stream.client().set(stream.key(broken.generation.pk), "no stream")
    for answer in (broken, sound):
        writers.add(answer)
        assert answer.over.wait(10)
    assert _deltas(sound) == [("threefour", "answer", 2)]
    assert (broken.last().text, sound.last().text) == ("onetwo", "threefour")


def test_text_that_no_database_can_hold_spoils_neither_its_answer_nor_another(writers: Writers, owner: User) -> None:
    odd, sound = _answer(owner, Delta((1,), "a\0b\ud800")), _answer(owner, Delta((2,), "sound"))
    writers.add(odd)
    writers.add(sound)
    rows = Generation.objects.filter(pk__in=[odd.generation.pk, sound.generation.pk])
    wait_until(lambda: set(rows.values_list("text", flat=True)) == {"a\ufffdb\ufffd", "sound"}, "both saved")


def test_one_statement_saves_all_and_renews_their_leases(owner: User) -> None:
    answers = [_answer(owner, *_said(f"answer {number}")) for number in range(3)]
    for answer in answers:
        answer.settle([None for _ in answer.gather()])
    before = {row.pk: row.lease_until for row in Generation.objects.filter(worker=WORKER, state="running")}
    saved = Generation.objects.persist(WORKER, [(answer.generation, answer.progress()) for answer in answers])
    assert saved == {(answer.generation.pk, 1) for answer in answers}
    for number, answer in enumerate(answers):
        row = Generation.objects.get(pk=answer.generation.pk)
        assert (row.text, row.completion_tokens, row.last_seq) == (f"answer{number}", 2, 1)
        assert row.lease_until is not None
        assert row.lease_until > before[row.pk]  # type: ignore[operator]


def test_of_two_runs_of_a_generation_in_one_worker_only_the_older_is_cancelled(writers: Writers, owner: User) -> None:
    """A worker that slept through its lease may be given its own generation again."""
    old = _answer(owner, Delta((1,), "one"))
    writers.add(old)
    assert old.generation.hand_back(old.progress(), crashed=True)
    claimed = Generation.objects.claim(WORKER, model=old.generation.model, door=old.generation.door)
    assert claimed == old.generation
    new = Answer(claimed)
    new.handle = Dictated(Delta((1,), "one"))
    new.open(prompt_tokens=3, dropped_messages=0)
    writers.add(new)
    assert old.handle.cancelled.wait(10)  # type: ignore[union-attr]
    wait_until(lambda: Generation.objects.get(pk=claimed.pk).text == "one", "the newer run's save")
    assert not new.handle.cancelled.is_set()


def test_a_run_that_is_fenced_out_is_over_at_once(writers: Writers, owner: User) -> None:
    answer = _answer(owner)
    writers.add(answer)
    stream.fence(answer.generation.pk, 9)
    answer.handle.say(Delta((1,), "late"))  # type: ignore[union-attr]
    writers.wake(urgent=False)
    assert answer.over.wait(10)
    assert answer.lost
    assert answer.last().text == ""


def test_what_keeps_coming_is_gathered_until_its_turn(writers: Writers, owner: User) -> None:
    """One entry a turn, however many tokens a second; nothing is lost between the turns."""
    answer = _answer(owner)
    writers.add(answer)
    pause = threading.Event()
    for number in range(40):
        answer.handle.say(Delta((number,), f"{number} "))  # type: ignore[union-attr]
        writers.wake(urgent=False)
        pause.wait(EMIT_S / 10)
    answer.handle.say(STOP)  # type: ignore[union-attr]
    writers.wake(urgent=True)
    assert answer.over.wait(10)
    deltas = _deltas(answer)
    assert "".join(text for text, _, _ in deltas) == "".join(f"{number} " for number in range(40))
    assert len(deltas) < 40
