"""`manage.py web`: the web process, Daphne over config.asgi."""

from typing import Any

from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server
from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Serve pages and the chat's WebSocket until SIGTERM."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        from config.asgi import application

        Server(
            application=application,
            endpoints=build_endpoint_description_strings(host=settings.HOST, port=settings.PORT),
            # Access lines would hold addresses and query strings; config.requests logs what may be kept.
            action_logger=None,
            # Pings find the dead connections of phones that left the network.
            ping_interval=20,
            ping_timeout=20,
            websocket_timeout=-1,
            server_name="lambda-chat",
        ).run()
