"""The Celery application: Redis as broker, results ignored, one message at a time."""

import os

from celery import Celery, signals
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


def broker_url(redis_url: str) -> str:
    """Kombu's spelling of a Redis URL: a Unix socket is redis+socket://."""
    return redis_url.replace("unix://", "redis+socket://", 1)


@signals.setup_logging.connect
def _keep_our_logging(**kwargs: object) -> None:
    """Celery installs handlers of its own unless somebody listens here; Django's are the ones we want."""


app = Celery("lambda_chat")
app.conf.update(
    broker_url=broker_url(settings.REDIS_URL),
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_connect_timeout": 5, "socket_timeout": 30, "health_check_interval": 30},
    # A message is only a hint that a row waits: PostgreSQL decides who claims it, and the sweeper finds lost ones.
    task_acks_late=False,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    task_serializer="json",
    accept_content=["json"],
    timezone="UTC",
)
app.autodiscover_tasks(["inference"])
