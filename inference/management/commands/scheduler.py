"""`manage.py scheduler`: what has to happen every few seconds, hours and days. Several may run at once."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from apscheduler.schedulers.blocking import BlockingScheduler
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import close_old_connections

from accounts import guests
from chat import shares
from inference import recovery

SECOND, HOUR = 1, 3600


class Command(BaseCommand):
    help = "Run the periodic jobs until SIGTERM."

    def handle(self, *args: Any, **options: Any) -> None:
        scheduler = BlockingScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        for job, seconds in self._jobs():
            # Each once at the start: a laptop that is switched off every night would never reach the daily ones.
            first = datetime.now(UTC)
            scheduler.add_job(
                _with_connection(job), "interval", seconds=seconds, name=job.__name__, next_run_time=first
            )
        signal.signal(signal.SIGTERM, lambda number, frame: scheduler.shutdown(wait=False))
        scheduler.start()

    def _jobs(self) -> list[tuple[Callable[[], object], int]]:
        absent_since: dict[str, datetime] = {}

        def give_up() -> None:
            recovery.give_up(absent_since)

        def forget_guests() -> None:
            guests.forget_unseen(settings.GUEST_RETENTION_DAYS)

        def clear_sessions() -> None:
            call_command("clearsessions")

        return [
            (recovery.sweep, 5 * SECOND),
            (recovery.reap, 5 * SECOND),
            (give_up, 5 * SECOND),
            (forget_guests, HOUR),
            (shares.forget_expired, HOUR),
            (clear_sessions, 24 * HOUR),
        ]


def _with_connection(job: Callable[[], object]) -> Callable[[], None]:
    """Jobs run on threads that Django does not know: give each a fresh connection, and give it back."""

    def run() -> None:
        close_old_connections()
        try:
            job()
        finally:
            close_old_connections()

    run.__name__ = job.__name__
    return run
