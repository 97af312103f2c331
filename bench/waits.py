"""What those who wait are told, against how long they waited: 20 questions at once to one worker with one place.

The questions differ, and so do their answers' lengths, which end where the model ends them. Who begins at once is left
out: there is nothing to estimate.
"""

from __future__ import annotations

import time
import uuid

from bench import report, visitor
from inference import generations, waits
from inference.availability import catalog
from inference.catalog import ModelSpec
from inference.models import Generation
from inference.types import Turn
from tests.stack import Stack

JOBS = 20
BEFORE = 5  # answered before, so that there is something to go by
MAX_TOKENS = 128
ERROR_MOST_PERCENT = 30.0
WAITED_LEAST_S = 1.0
PATIENCE_S = 400.0
SUBJECTS = ("bread", "whales", "bicycles", "the moon", "chess", "rain", "bees", "glass", "sleep", "maps")
QUESTIONS = ("What is the one most important thing about {}?", "Write a paragraph about {}.", "Name a colour of {}.")


def measure() -> None:
    """Start a worker, ask, print. Blocks for one to three minutes."""
    spec = catalog().default
    questions = [question.format(subject) for subject in SUBJECTS for question in QUESTIONS]
    product = Stack()
    try:
        product.worker(spec.slug, WORKER_SLOTS="1", WORKER_THREADS="0")
        _ended(_ask(spec, questions[:BEFORE]))
        rows = _ask(spec, questions[BEFORE : BEFORE + JOBS])
        asked = time.time()
        told = {row.pk: waits.place_of(row) for row in rows}
        errors = []
        for row in _ended(rows):
            place, waited_s = told[row.pk], row.started_at.timestamp() - asked if row.started_at else 0.0
            if place is not None and place.eta_s is not None and waited_s >= WAITED_LEAST_S:
                errors.append(100 * abs(place.eta_s - waited_s) / waited_s)
    finally:
        product.stop()
    report.title(f"Estimated waits: {JOBS} questions at once to {spec.slug} on one worker with one place")
    report.target("error of the wait that was told, % of the real one", errors, most=ERROR_MOST_PERCENT)


def _ask(spec: ModelSpec, questions: list[str]) -> list[Generation]:
    return [
        generations.start(
            generations.Request(
                owner=visitor.new().owner,
                door=Generation.Door.CHAT,
                model=spec,
                turns=[Turn("user", question)],
                options=generations.Options(max_tokens=MAX_TOKENS),
                key=uuid.uuid4(),
                fingerprint=generations.fingerprint(question),
            )
        )
        for question in questions
    ]


def _ended(asked: list[Generation]) -> list[Generation]:
    """The rows once all are over. Blocks."""
    rows = Generation.objects.filter(pk__in=[row.pk for row in asked])
    deadline = time.monotonic() + PATIENCE_S
    while rows.active().exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{rows.active().count()} answers were not done within {PATIENCE_S:.0f} s")
        time.sleep(0.25)
    return list(rows)
