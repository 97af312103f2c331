"""`manage.py web`: the web process, Daphne over config.asgi."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server, twisted_loop
from django.conf import settings
from django.core.management.base import BaseCommand

from inference.availability import catalog

DATABASE_THREADS = 16


class Command(BaseCommand):
    help = "Serve pages and the chat's WebSocket until SIGTERM."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        from config.asgi import application

        catalog()
        # The database's operations wait on these threads; asyncio's own default is six on two cores.
        twisted_loop.set_default_executor(ThreadPoolExecutor(DATABASE_THREADS, "database"))
        server: Server = Server(
            application=application,
            endpoints=build_endpoint_description_strings(host=settings.HOST, port=settings.PORT),
            # Access lines would hold addresses and query strings; config.requests logs what may be kept.
            action_logger=None,
            # Pings find the dead connections of phones that left the network.
            ping_interval=20,
            ping_timeout=20,
            websocket_timeout=-1,
            server_name="lambda-chat",
            ready_callable=lambda: self._close_with_a_code(server),
        )
        server.run()

    @staticmethod
    def _close_with_a_code(server: Server) -> None:
        """A frame that is too large or no UTF-8 ends with 1009 or 1007, where Daphne would just hang up."""
        server.ws_factory.setProtocolOptions(failByDrop=False)
