"""What has to be in place before the processes start; each step is fast when nothing has changed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import cast

import redis
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connections
from django.db.backends.postgresql.base import DatabaseWrapper

from inference import weights
from inference.catalog import ModelSpec


def database_problem() -> str:
    """Why PostgreSQL cannot be used, in one sentence; empty where it can. Waits up to 10 s for it."""
    connection = _connection()
    options = settings.DATABASES["default"]
    where = f"{options['HOST'] or 'localhost'}, database {options['NAME']}"
    try:
        connection.ensure_connection()
        if connection.pg_version < 140000:
            return f"PostgreSQL at {where} is too old; version 14 or later is needed."
    except OperationalError as error:
        reason = str(error).strip().split("\n")[0]
        return f"PostgreSQL does not answer at {where}; check DATABASE_URL. ({reason})"
    return ""


def redis_problem() -> str:
    """Why Redis cannot be used, in one sentence; empty where it can."""
    try:
        version = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=5).info("server")["redis_version"]
    except redis.RedisError as error:
        return f"Redis does not answer; check REDIS_URL. ({error})"
    if int(str(version).split(".")[0]) < 6:
        return f"Redis {version} is too old; version 6 or later is needed."
    return ""


def migrate() -> None:
    """Bring the database's tables up to date, then give the connections back: the parent keeps none."""
    call_command("migrate", interactive=False, verbosity=0)
    connection = _connection()
    connection.close()
    connection.close_pool()


def static_files() -> None:
    """Collect and hash the static files where a source has changed since the last time."""
    stamp = settings.STATIC_ROOT / ".sources"
    state = _sources_state()
    if stamp.exists() and stamp.read_text() == state:
        return
    call_command("collectstatic", interactive=False, clear=True, verbosity=0)
    stamp.write_text(state)


def model(spec: ModelSpec) -> bool:
    """Fetch and convert a model's weights where they are not here yet, with a progress bar. False: it said why."""
    if weights.is_ready(spec, settings.MODELS_DIR):
        return True
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "models", "pull", spec.slug]
    return subprocess.run(command, check=False).returncode == 0


def _connection() -> DatabaseWrapper:
    # Behind Django's proxy, whose type knows only what all databases share.
    return cast(DatabaseWrapper, connections["default"])


def _sources_state() -> str:
    digest = hashlib.sha256()
    for path in _sources():
        info = path.stat()
        digest.update(f"{path} {info.st_size} {info.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _sources() -> list[Path]:
    """Our own files, and the lock file that stands for the third-party ones."""
    paths = [settings.BASE_DIR / "package-lock.json", *sorted((settings.BASE_DIR / "static").rglob("*"))]
    return [path for path in paths if path.is_file()]
