"""Probes and figures: `/healthz` the process lives, `/readyz` a chat would be answered, `/metrics` for Prometheus."""

from __future__ import annotations

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from psycopg_pool import PoolTimeout
from redis.exceptions import RedisError

from inference import workers
from inference.metrics import Collector

# auto_describe off: describing would collect, and ask the database while this module is imported.
_registry = CollectorRegistry(auto_describe=False)
_registry.register(Collector())


@never_cache
def alive(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


@never_cache
def ready(request: HttpRequest) -> JsonResponse:
    """200 when PostgreSQL, Redis and a worker with its model answer; else 503 and what is missing."""
    missing = []
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (DatabaseError, PoolTimeout):
        missing.append("postgresql")
    models: list[str] = []
    try:
        models = sorted({worker.model for worker in workers.living()})
        if not models:
            missing.append("worker")
    except RedisError:
        missing += ["redis", "worker"]
    return JsonResponse({"ready": not missing, "missing": missing, "models": models}, status=503 if missing else 200)


@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    return HttpResponse(generate_latest(_registry), content_type=CONTENT_TYPE_LATEST)
