"""Where the benchmarks run: PostgreSQL and Redis over a temporary DATA_DIR, ended with the run.

Settings are read once, when they are first needed; hence everything of the project is imported inside `ready()`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django

from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 15.0


@contextmanager
def ready() -> Iterator[None]:
    """Django set up over a fresh DATA_DIR, with PostgreSQL and Redis; all of it gone on the way out."""
    data = Path(tempfile.mkdtemp(prefix="lambda-bench-"))
    servers: list[subprocess.Popen[bytes]] = []
    try:
        _set_up(data)
        from config import embedded, prepare

        servers.append(embedded.start_postgres(data, output=subprocess.DEVNULL))
        servers.append(embedded.start_redis(data, output=subprocess.DEVNULL))
        prepare.migrate()
        yield
    finally:
        for server in reversed(servers):
            # PostgreSQL's fast shutdown is SIGINT; Redis ends on it as well.
            server.send_signal(signal.SIGINT)
            server.wait(STOP_S)
        shutil.rmtree(data, ignore_errors=True)


def _set_up(data: Path) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "HTTPS", "ALLOWED_HOSTS", "ORIGINS", "HOST", "MODELS_FILE"):
        os.environ[name] = ""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATA_DIR": str(data),
        "PORT": str(free_port()),
        "LOG_LEVEL": "WARNING",
    }
    # The weights are those of `make run`.
    kept = ROOT / "data" / "models"
    kept.mkdir(parents=True, exist_ok=True)
    (data / "models").symlink_to(kept)
    django.setup()
