"""The real parts that every test may use: PostgreSQL, Redis, and on demand the whole product as processes.

Everything runs over one temporary DATA_DIR. Nothing is rolled back and nothing is emptied between tests: each makes
people of its own, and owners do not see each other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(tempfile.mkdtemp(prefix="lambda-test-"))
KEPT = ROOT / "data"

# Settings are read once, when Django is set up: the environment of the tests has to stand before.
for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "RUN_MODELS", "HTTPS", "ALLOWED_HOSTS", "ORIGINS", "HOST"):
    os.environ[name] = ""
os.environ |= {
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "DATA_DIR": str(DATA),
    "MODELS_FILE": str(DATA / "models.toml"),
    "PORT": str(free_port()),
    "LOG_LEVEL": "WARNING",
    "LOG_ERROR_TEXT": "on",
    "ACTIVE_LIMIT": "8",
}

import django  # noqa: E402

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.core.management import call_command  # noqa: E402

from accounts.guests import ensure_owner  # noqa: E402
from accounts.models import User  # noqa: E402
from config import embedded  # noqa: E402
from tests.stack import Stack, write_catalog  # noqa: E402
from tests.tiny.build import ensure as ensure_tiny_model  # noqa: E402


@pytest.fixture(scope="session")
def tiny_model_dir() -> Path:
    """The tiny model, built once and kept under data/ until its script changes."""
    return ensure_tiny_model(KEPT / "test-models")


@pytest.fixture(scope="session")
def default_model_dir() -> Path:
    """The default model, fetched and converted as an operator would, where `make run` keeps it too."""
    from inference import catalog, weights

    spec = catalog.load(ROOT / "models.toml").default
    return weights.pull(spec, KEPT / "models", lambda phase, done, total: None)


@pytest.fixture(scope="session")
def model_catalog(tiny_model_dir: Path) -> Path:
    """The models.toml of the tests; the weights of the default model are shared with `make run`."""
    (KEPT / "models").mkdir(parents=True, exist_ok=True)
    if not settings.MODELS_DIR.exists():
        settings.MODELS_DIR.symlink_to(KEPT / "models")
    write_catalog(settings.MODELS_FILE, ROOT / "models.toml", tiny_model_dir)
    return settings.MODELS_FILE


@pytest.fixture(scope="session")
def redis_server() -> Iterator[subprocess.Popen[bytes]]:
    process = embedded.start_redis(DATA, output=subprocess.DEVNULL)
    yield process
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[subprocess.Popen[bytes]]:
    process = embedded.start_postgres(DATA, output=subprocess.DEVNULL)
    yield process
    from django.db import connection

    connection.close()
    connection.close_pool()
    process.send_signal(2)
    process.wait(15)


@pytest.fixture(scope="session")
def database(
    postgres_server: subprocess.Popen[bytes], redis_server: subprocess.Popen[bytes], model_catalog: Path
) -> None:
    """PostgreSQL with its tables, Redis, and the catalog: what most functions of the project need."""
    call_command("migrate", interactive=False, verbosity=0)


@pytest.fixture(scope="session")
def stack(database: None) -> Iterator[Stack]:
    """The product as its processes: web and scheduler at once, workers when a test asks for them."""
    subprocess.run(["make", "--silent", "node_modules/.installed"], cwd=ROOT, check=True)
    call_command("collectstatic", interactive=False, verbosity=0)
    running = Stack()
    running.start("web")
    running.start("scheduler")
    running.wait_for_web()
    yield running
    running.stop()


@pytest.fixture
def session_key(database: None) -> str:
    """A browser session with nobody behind it yet."""
    session = SessionStore()
    session.create()
    return str(session.session_key)


@pytest.fixture
def owner(session_key: str) -> User:
    return ensure_owner(session_key)


def pytest_sessionfinish(exitstatus: int) -> None:
    """Keep the processes' logs of a run that failed."""
    if exitstatus:
        kept = ROOT / "tests" / "artifacts"
        kept.mkdir(exist_ok=True)
        for path in DATA.glob("*.log"):
            shutil.copy(path, kept)
    shutil.rmtree(DATA, ignore_errors=True)


def pytest_report_header() -> str:
    return f"data: {DATA}, python {sys.version.split()[0]}"
