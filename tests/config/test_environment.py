"""Settings: typed, loud, and all of them written down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from config.environment import Environment
from tests.conftest import ROOT

BAD = {
    "PORT": ["x", "0", "70000", "80.5"],
    "DEBUG": ["maybe", "2"],
    "LOG_FORMAT": ["xml"],
    "LOG_LEVEL": ["loud"],
    "DEVICE": ["tpu"],
    "DATABASE_URL": ["mysql://localhost/x", "sqlite:///x", "postgresql://localhost"],
    "REDIS_URL": ["http://localhost"],
    "ORIGINS": ["chat.example.org", "https://chat.example.org/path", "ftp://x"],
    "SECRET_KEY": ["short"],
    "QUEUE_LIMIT": ["-1"],
    "ELSEWHERE_API_KEY": ["two words", "ключ"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_value_that_is_not_understood_is_refused_with_its_name(name: str, value: str) -> None:
    done = _manage("check", **{name: value})
    assert done.returncode == 1
    assert name in done.stderr.strip().splitlines()[-1]


def test_a_refused_url_does_not_show_its_password() -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        Environment({"DATABASE_URL": "mysql://me:hunter2@db/x"}).url("DATABASE_URL", ("postgresql",))
    assert "hunter2" not in str(refused.value)


def test_the_example_file_lists_every_variable_and_no_other() -> None:
    names = re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(settings.ENV.declared)


def test_the_settings_page_explains_every_variable() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in settings.ENV.declared if f"`{name}`" not in text] == []


def test_the_environment_is_read_in_one_place() -> None:
    readers = [
        path.relative_to(ROOT).as_posix()
        for folder in ("config", "accounts", "chat", "inference")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"os\.getenv|environ(\.get|\[[^]]+\](?! =))", path.read_text())
    ]
    assert readers == []


def test_production_settings_pass_djangos_deployment_checks() -> None:
    done = _manage(
        "check",
        "--deploy",
        "--fail-level",
        "WARNING",
        HTTPS="on",
        BEHIND_PROXY="on",
        ALLOWED_HOSTS="chat.example.org",
        SECRET_KEY="a-long-and-random-string-of-more-than-fifty-characters-x9",
    )
    assert done.returncode == 0, done.stderr


def test_the_web_process_loads_no_torch() -> None:
    code = "import sys, config.asgi; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_migration_is_missing(database: None) -> None:
    done = _manage("makemigrations", "--check", "--dry-run")
    assert done.returncode == 0, done.stdout


def _manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(ROOT) / "manage.py"), *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
