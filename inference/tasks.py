"""The Celery task, and the queues it travels on. A task carries one id; everything else is in PostgreSQL."""

from __future__ import annotations

import uuid

from celery import shared_task

from inference import runner
from inference.models import Generation
from inference.stream import client


def queue_name(model: str, door: str) -> str:
    """One queue per model and door, so that a worker of one model never sees another's work."""
    return f"generate.{model}.{door}"


def enqueue(generation: Generation) -> None:
    """Send a generation's id to the workers of its model. Raises kombu's OperationalError without Redis."""
    generate.apply_async(
        args=(str(generation.pk),), queue=queue_name(generation.model, generation.door), ignore_result=True, retry=False
    )


def backlog(model: str, door: str) -> int:
    """How many messages wait on a queue. Raises RedisError."""
    return int(client().llen(queue_name(model, door)))


@shared_task(name="generate")
def generate(generation_id: str) -> None:
    """Write one answer; blocks a thread of the worker until it has ended."""
    runner.run(uuid.UUID(generation_id))
