"""The top layer: settings, addresses, the processes and how they are started."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
