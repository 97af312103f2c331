"""The Celery task, and the queues it travels on.

A message names no generation: it tells the workers of a queue that one more waits, and whoever takes it claims the
oldest. So a lost message delays nobody in particular, and a message too many finds nothing to claim.
"""

from __future__ import annotations

from celery import shared_task

from inference import runner
from inference.stream import client


def queue_name(model: str, door: str) -> str:
    """One queue per model and door, so that a worker of one model never sees another's work."""
    return f"generate.{model}.{door}"


def enqueue(model: str, door: str) -> None:
    """Tell the workers of a queue that one more generation waits. Raises kombu's OperationalError without Redis."""
    generate.apply_async(args=(model, door), queue=queue_name(model, door), ignore_result=True, retry=False)


def backlog(model: str, door: str) -> int:
    """How many messages wait on a queue. Raises RedisError."""
    return int(client().llen(queue_name(model, door)))


@shared_task(name="generate")
def generate(model: str, door: str) -> None:
    """Write the oldest answer of a queue; blocks a thread of the worker until it has ended."""
    runner.run(model, door)
