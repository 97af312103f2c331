"""The web process: pages over HTTP, the chat over one WebSocket."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from channels.sessions import CookieMiddleware
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# Apps must be loaded before the consumer imports their models.
http = get_asgi_application()

from chat.consumers import ChatConsumer  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": OriginValidator(
            CookieMiddleware(URLRouter([path("ws/chat/", ChatConsumer.as_asgi())])), settings.ORIGINS
        ),
    }
)
