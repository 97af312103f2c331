"""One log line and one request id for each HTTP request; the id travels on to the task and the ledger."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse

from config.logs import request_id

log = logging.getLogger("web")


class RequestLogMiddleware:
    """Logs method, route (the pattern, never the address with its ids and query), status and duration."""

    async_capable = True
    sync_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> None:
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id.set(uuid.uuid4().hex)
        started = time.perf_counter()
        response = await self._get_response(request)
        route = request.resolver_match.route if request.resolver_match else "(none)"
        level = logging.DEBUG if route in QUIET_ROUTES or response.status_code == 304 else logging.INFO
        fields = {"method": request.method, "route": route or "/", "status": response.status_code}
        log.log(level, "request", extra={**fields, "duration_ms": round((time.perf_counter() - started) * 1000)})
        response.headers["X-Request-Id"] = request_id.get()
        return response


# Probes and static files ask every few seconds; their lines would bury the others.
QUIET_ROUTES = frozenset({"healthz", "readyz", "metrics", "(none)"})
