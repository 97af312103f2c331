"""`manage.py worker --model SLUG [--device cpu|cuda|cuda:1]`: host one model and answer its queue."""

import sys
from argparse import ArgumentParser
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference.availability import catalog
from inference.weights import is_ready
from inference.worker import serve


class Command(BaseCommand):
    help = "Host one model and answer its queue until SIGTERM."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--model", default="", help="a slug of models.toml; the default model without it")
        parser.add_argument("--device", default=settings.DEVICE, help="auto, cpu, cuda or cuda:N")

    def handle(self, *args: Any, model: str, device: str, **options: Any) -> None:
        try:
            spec = catalog().get(model) if model else catalog().default
        except KeyError:
            raise CommandError(f"There is no model {model!r} in {settings.MODELS_FILE}.") from None
        if not is_ready(spec, settings.MODELS_DIR):
            raise CommandError(f"{spec.name} is not here yet; fetch it with `manage.py models pull {spec.slug}`.")
        sys.exit(serve(current_app, spec, device=device))
