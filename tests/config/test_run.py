"""`manage.py run`, what `make run` ends in: one command, one sentence where it cannot, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from config.supervisor import disk_problem
from tests.browser_client import Guest
from tests.conftest import ROOT
from tests.ports import free_port
from tests.stack import TINY, wait_until
from tests.tiny.replies import HELLO, REPLIES


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lambda-run-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Run:
    """One `manage.py run` over a DATA_DIR of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port = int(environment.pop("PORT", 0)) or free_port()
        self.folder = folder
        self.log = folder / "run.log"
        settings = {"DATA_DIR": str(folder), "PORT": str(self.port), "RUN_MODELS": TINY, "WORKER_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "run"],
                env={**os.environ, **settings, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(self.log.read_text()[-2000:])
            try:
                return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(ready, "/readyz 200", 90)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[int]:
        """The process ids of living workers."""
        found = []
        for child in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "worker" in child.cmdline():
                    found.append(child.pid)
        return found

    def last_line(self) -> str:
        self.process.wait(60)
        return self.log.read_text().strip().splitlines()[-1]


def _refused(run: Run) -> str:
    line = run.last_line()
    assert run.process.returncode == 1
    assert line.startswith("CommandError: ")
    assert "Traceback" not in run.log.read_text()
    return line


def test_a_port_in_use_is_told_in_one_sentence(database: None, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Port {port} is in use" in _refused(Run(folder, PORT=str(port)))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing", "PostgreSQL does not answer at 127.0.0.1"),
        ("REDIS_URL", "redis://127.0.0.1:1/0", "Redis does not answer; check REDIS_URL"),
        ("RUN_MODELS", "no-such-model", "RUN_MODELS names a model"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(
    database: None, folder: Path, name: str, value: str, said: str
) -> None:
    line = _refused(Run(folder, **{name: value}))
    assert said in line


def test_too_little_disk_is_told_in_one_sentence() -> None:
    problem = disk_problem(Path("/srv/chat"), free_bytes=50_000_000)
    assert problem.startswith("/srv/chat has 50 MB free")
    assert "DATA_DIR" in problem
    assert disk_problem(Path("/srv/chat"), free_bytes=10**12) == ""


def test_one_command_answers_a_chat_survives_kill_9_and_leaves_nothing(database: None, folder: Path) -> None:
    first = Run(folder)
    first.wait_until_ready()
    with Guest(f"http://127.0.0.1:{first.port}") as guest, guest.socket() as chat:
        sent, answer = chat.answer(HELLO, TINY)
        assert answer.text == REPLIES[HELLO]
        conversation = sent["conversation"]

        # A second one over the same folder is refused, and does not disturb the first.
        assert "Another `make run` uses" in _refused(Run(folder))
        assert httpx.get(f"{guest.base}/readyz").status_code == 200

        # A worker that dies is started again.
        (worker,) = first.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: first.workers() not in ([], [worker]), "a restart")

    # kill -9 of the parent: the kernel ends the children, PostgreSQL in order.
    children = first.descendants()
    assert len(children) >= 5
    first.process.kill()
    first.process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []

    # And a new start copes with the sockets and pid files that are left, and has what was said.
    second = Run(folder, PORT=str(first.port))
    second.wait_until_ready()
    response = guest_again(guest, f"/conversations/{conversation}")
    assert [message["text"] for message in response["messages"]] == [HELLO, REPLIES[HELLO]]
    children = second.descendants()
    started = time.monotonic()
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(40) == 0
    _, alive = psutil.wait_procs(children, timeout=1)
    assert alive == [], f"left after {time.monotonic() - started:.0f} s"
    assert "is ready at http://127.0.0.1" in second.log.read_text()


def guest_again(guest: Guest, address: str) -> dict:
    with httpx.Client(base_url=guest.base, cookies=guest.http.cookies) as client:
        return client.get(address).raise_for_status().json()
