"""`manage.py run`: the whole product in one terminal; `make run` calls it after `make setup`."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from config.supervisor import CannotRun, Supervisor
from inference.catalog import CatalogError


class Command(BaseCommand):
    help = "Run web, worker and scheduler, with an embedded PostgreSQL and Redis where none are given."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            Supervisor().run()
        except (CannotRun, CatalogError) as error:
            raise CommandError(str(error)) from None
