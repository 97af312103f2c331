"""The Celery worker of one model: `manage.py worker` runs it.

Celery brings the tasks and the warm shutdown; a bootstep loads the model after the pool and before the first task is
taken. The pool is of threads, as many as the engine has slots: one process owns one device, and CUDA meets no fork.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from pathlib import Path
from typing import Any, ClassVar

from celery import Celery, bootsteps
from celery.exceptions import SecurityWarning
from django.conf import settings

from inference import runner
from inference.catalog import ModelSpec
from inference.models import Generation
from inference.tasks import queue_name
from inference.types import Reasoning, ReasoningFormat
from inference.weights import directory

log = logging.getLogger("worker")

DRAIN_S = 20.0


class EngineStep(bootsteps.StartStopStep):
    """Loads the model once the pool is there, and closes the engine when the pool's tasks are done."""

    requires = ("celery.worker.components:Pool",)
    spec: ClassVar[ModelSpec]
    device: ClassVar[str]

    def start(self, parent: Any) -> None:
        runner.host = _host(parent.hostname, self.spec, self.device)

    def stop(self, parent: Any) -> None:
        """Steps stop in reverse: tasks are no longer taken, and those that run wait for the engine. So it drains."""
        if runner.host is not None:
            runner.host.drain(DRAIN_S)
            runner.host.close()


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


def _host(name: str, spec: ModelSpec, device: str) -> Any:
    # torch and transformers take seconds to import; only a process that hosts a model pays for it.
    from inference.engine.engine import Engine
    from inference.engine.loading import load, set_threads
    from inference.host import Host

    set_threads(settings.WORKER_THREADS)
    folder: Path = directory(spec, settings.MODELS_DIR)
    loaded = load(folder, device=device, dtype=spec.dtype, context_length=spec.context_length)
    engine = Engine(
        loaded,
        slots=settings.WORKER_SLOTS,
        reasoning=_reasoning(spec),
        pace_s=settings.WORKER_PACE_MS / 1000,
    )
    host = Host(name=name, model=spec.slug, loaded=loaded, engine=engine, slots=settings.WORKER_SLOTS)
    host.start()
    log.info("model loaded", extra={"worker": name, "model": spec.slug, "device": str(loaded.device)})
    return host


def _reasoning(spec: ModelSpec) -> Reasoning | None:
    """What the catalog declares, as the engine takes it."""
    declared = spec.reasoning
    if declared is None:
        return None
    return Reasoning(ReasoningFormat(declared.format), open=declared.open or "", close=declared.close or "")
