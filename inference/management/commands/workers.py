"""manage.py workers: who answers, who is on the way, and how much each has to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import RedisError

from inference import workers
from inference.workers import Announcement, Loading

HEADINGS = ("MODEL", "WORKER", "DEVICE", "DTYPE", "REVISION", "RUNNING", "WAITING", "TOKENS/S", "KV", "MEMORY")
RIGHT = 5  # from this column on they are figures


class Command(BaseCommand):
    """One line a worker; with --json one object a line, for scripts. Status 1 where none answers."""

    help = "List the workers that live, with their load."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object a line")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            living, loading = workers.living(), workers.loading()
        except RedisError as error:
            raise CommandError("Redis does not answer, so nobody knows which workers live.") from error
        if options["json"]:
            for notice in [*map(asdict, living), *map(asdict, loading)]:
                self.stdout.write(json.dumps(notice))
        elif living or loading:
            self._table([*map(_row, living), *map(_row_of_loading, loading)])
        if not living:
            raise CommandError("No worker answers. `manage.py worker --model SLUG` starts one.")

    def _table(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
        for row in (HEADINGS, *rows):
            cells = [
                cell.rjust(width) if place >= RIGHT else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.stdout.write("  ".join(cells).rstrip())


def _row(worker: Announcement) -> tuple[str, ...]:
    return (
        worker.model,
        worker.worker,
        worker.device,
        worker.dtype,
        worker.revision[:12],
        f"{worker.running}/{worker.slots}",
        str(worker.waiting),
        f"{worker.tokens_per_s:.1f}",
        f"{worker.kv_share:.0%}",
        f"{worker.memory_bytes / 1e6:,.0f} MB",
    )


def _row_of_loading(worker: Loading) -> tuple[str, ...]:
    return (worker.model, worker.worker, f"loading {worker.share:.0%}", *[""] * (len(HEADINGS) - 3))
