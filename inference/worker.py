"""The Celery worker of one model: `manage.py worker` runs it.

Celery brings the tasks and the warm shutdown; a bootstep loads the model after the pool and before the first task is
taken. The pool is of threads, as many as the engine has slots: one process owns one device, and CUDA meets no fork.
A model that an engine elsewhere runs is served in the same way, and no torch is loaded for it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from celery import Celery, bootsteps
from celery.exceptions import SecurityWarning
from django.conf import settings

from inference import runner, workers
from inference.catalog import ModelSpec, OpenAISource
from inference.elsewhere.model import RemoteModel
from inference.host import Host
from inference.models import Generation
from inference.served import Served
from inference.tasks import queue_name
from inference.types import Reasoning, ReasoningFormat
from inference.weights import directory

log = logging.getLogger("worker")

DRAIN_S = 20.0
LOG_LOADING_S = 5.0


class EngineStep(bootsteps.StartStopStep):
    """Loads the model once the pool is there, and closes the engine when the pool's tasks are done."""

    requires = ("celery.worker.components:Pool",)
    spec: ClassVar[ModelSpec]
    device: ClassVar[str]

    def start(self, parent: Any) -> None:
        runner.runner = _runner(parent.hostname, self.spec, self.device)

    def stop(self, parent: Any) -> None:
        """Steps stop in reverse: tasks are no longer taken, and those that run wait for the engine. So it drains."""
        if runner.runner is not None:
            runner.runner.stop(DRAIN_S)


def serve(app: Celery, spec: ModelSpec, *, device: str) -> int:
    """Run a worker of one model until it is told to stop. Blocks; returns the exit status. Main thread only."""
    EngineStep.spec, EngineStep.device = spec, device
    # Celery warns of root for pickle's sake; our messages are JSON and hold one id.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app.steps["worker"].add(EngineStep)
    worker = app.Worker(
        hostname=f"{spec.slug}-{os.getpid()}@{socket.gethostname()}",
        queues=[queue_name(spec.slug, door) for door in Generation.Door.values],
        pool="threads",
        concurrency=settings.WORKER_SLOTS,
        loglevel=settings.LOG_LEVEL,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _runner(name: str, spec: ModelSpec, device: str) -> runner.Runner:
    served = _served(name, spec, device)
    started = runner.Runner(Host(name=name, model=spec.slug, served=served, slots=settings.WORKER_SLOTS))
    started.start()
    return started


def _served(name: str, spec: ModelSpec, device: str) -> Served:
    if isinstance(spec.source, OpenAISource):
        return RemoteModel(spec, api_key=settings.ELSEWHERE_API_KEY, connections=settings.WORKER_SLOTS)
    with workers.announced_as_loading(name, spec.slug) as tell:
        served = _local_model(spec, device, on_progress=_told(spec, tell))
    log.info("model loaded", extra={"worker": name, "model": spec.slug, "device": served.device})
    return served


def _told(spec: ModelSpec, tell: Callable[[float], None]) -> Callable[[str, float], None]:
    """What loading reports to: the picker with each step, the log now and then."""
    logged = -LOG_LOADING_S

    def on_progress(phase: str, share: float) -> None:
        nonlocal logged
        if phase != "weights":
            return
        tell(share)
        if time.monotonic() - logged > LOG_LOADING_S or share >= 1:
            logged = time.monotonic()
            log.info("loading", extra={"model": spec.slug, "share": round(share, 2)})

    return on_progress


def _local_model(spec: ModelSpec, device: str, *, on_progress: Callable[[str, float], None]) -> Served:
    # OpenMP keeps a team for each thread that has ever computed, and where the teams have more threads than there are
    # cores, all of them sleep between two products instead of spinning: a quarter of the speed at 8 answers on two
    # cores. Loading computes, so its thread ends before the engine's begins, and its team with it.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loading") as passing:
        return passing.submit(_load, spec, device, on_progress).result()


def _load(spec: ModelSpec, device: str, on_progress: Callable[[str, float], None]) -> Served:
    # torch and transformers take seconds to import; only a process that hosts a model pays for it.
    from inference.engine.engine import Engine
    from inference.engine.loading import load, set_threads
    from inference.local import LocalModel

    set_threads(settings.WORKER_THREADS)
    folder: Path = directory(spec, settings.MODELS_DIR)
    loaded = load(folder, device=device, dtype=spec.dtype, context_length=spec.context_length, on_progress=on_progress)
    engine = Engine(
        loaded,
        slots=settings.WORKER_SLOTS,
        reasoning=_reasoning(spec),
        pace_s=settings.WORKER_PACE_MS / 1000,
    )
    return LocalModel(loaded, engine)


def _reasoning(spec: ModelSpec) -> Reasoning | None:
    """What the catalog declares, as the engine takes it."""
    declared = spec.reasoning
    if declared is None:
        return None
    return Reasoning(ReasoningFormat(declared.format), open=declared.open or "", close=declared.close or "")
