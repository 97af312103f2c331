"""What can be chosen now: the models of the catalog, with what lives and waits for each."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from django.conf import settings
from django.db.models import Count
from redis.exceptions import RedisError

from inference import workers
from inference.catalog import Catalog, ModelSpec, load
from inference.models import Generation

log = logging.getLogger("models")


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as the picker shows it. running and waiting count generations, on all its workers together.

    slots counts the answers that its workers can write at once. loading is how far the first of them has come that is
    not ready, from 0 to 1; None where none is on its way.
    """

    spec: ModelSpec
    ready: bool
    loading: float | None
    slots: int
    running: int
    waiting: int


@lru_cache(maxsize=1)
def catalog() -> Catalog:
    """The operator's catalog, read once per process."""
    return load(settings.MODELS_FILE)


def listing() -> list[Listed]:
    """Every model in the file's order; none is ready while Redis does not answer. One query and four Redis calls."""
    slots: Counter[str] = Counter()
    loading: dict[str, float] = {}
    try:
        for worker in workers.living():
            slots[worker.model] += worker.slots
        for coming in workers.loading():
            loading[coming.model] = max(coming.share, loading.get(coming.model, 0.0))
    except RedisError:
        log.warning("Redis does not answer; every model is shown as not running")
    counts: Counter[tuple[str, str]] = Counter()
    for row in Generation.objects.active().values("model", "state").annotate(count=Count("id")):
        counts[row["model"], row["state"]] = row["count"]
    return [
        Listed(
            spec=spec,
            ready=spec.slug in slots,
            slots=slots[spec.slug],
            loading=loading.get(spec.slug),
            running=counts[spec.slug, Generation.State.RUNNING],
            waiting=counts[spec.slug, Generation.State.QUEUED],
        )
        for spec in catalog()
    ]
