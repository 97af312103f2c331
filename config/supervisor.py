"""`make run`: everything in one terminal, and nothing left behind.

The supervisor is the parent of every process, on its main thread (Linux ties a child's death signal to the thread that
started it). It starts PostgreSQL and Redis where none are given, prepares what they need, starts web, scheduler and one
worker a model, restarts what dies, and ends all of it in order.
"""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from django.conf import settings

from config import embedded, prepare
from config.embedded import EmbeddedServerError, die_with_parent
from inference.availability import catalog
from inference.catalog import ModelSpec

FREE_DISK_MIN_BYTES = 1024**3
STOP_S = 25.0
RESTART_MIN_S, RESTART_MAX_S = 1.0, 30.0
COLOURS = ("36", "35", "33", "32", "34", "31")


class CannotRun(RuntimeError):
    """One sentence for the operator; the command ends with status 1."""


@dataclass
class Child:
    """A process and how to start it again. Restarts wait twice as long each time it dies young."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    wait_s: float = RESTART_MIN_S
    started_at: float = 0.0
    restart_at: float | None = None


@dataclass
class Supervisor:
    children: list[Child] = field(default_factory=list)
    servers: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    stopping: bool = False

    def run(self) -> None:
        """Start everything and stay until a signal comes. Raises CannotRun."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        lock = _lock_data_dir()
        try:
            problem = disk_problem(settings.DATA_DIR, free_bytes=shutil.disk_usage(settings.DATA_DIR).free)
            if problem:
                raise CannotRun(problem)
            _check_port()
            specs = _models_to_run()
            self._start_servers()
            self._prepare(specs)
            self._start_children(specs)
            self._watch()
        except _Stop:
            pass
        except EmbeddedServerError as error:
            raise CannotRun(str(error)) from None
        finally:
            self._stop()
            lock.close()

    def _start_servers(self) -> None:
        if settings.EMBEDDED_POSTGRES:
            self._server("postgres", embedded.start_postgres(settings.DATA_DIR, output=subprocess.PIPE))
        if settings.EMBEDDED_REDIS:
            self._server("redis", embedded.start_redis(settings.DATA_DIR, output=subprocess.PIPE))
        problem = prepare.database_problem() or prepare.redis_problem()
        if problem:
            raise CannotRun(problem)

    def _server(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.servers.append((name, process))
        self._relay(name, process)

    def _prepare(self, specs: Sequence[ModelSpec]) -> None:
        prepare.migrate()
        prepare.static_files()
        for spec in specs:
            if not prepare.model(spec):
                raise CannotRun(f"{spec.name} could not be fetched; the line above says why.")

    def _start_children(self, specs: Sequence[ModelSpec]) -> None:
        manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
        self.children = [Child("web", [*manage, "web"]), Child("scheduler", [*manage, "scheduler"])]
        for spec in specs:
            name = "worker" if len(specs) == 1 else f"worker {spec.slug}"
            self.children.append(Child(name, [*manage, "worker", "--model", spec.slug]))
        for child in self.children:
            self._start(child)

    def _start(self, child: Child) -> None:
        child.started_at, child.restart_at = time.monotonic(), None
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches the whole foreground group; in a session of its own a child hears of it from us, in order.
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        self._relay(child.name, child.process)

    def _watch(self) -> None:
        announced = False
        while True:
            self._check_servers()
            for child in self.children:
                self._restart_if_dead(child)
            if not announced and _ready():
                announced = True
                _say("ready", f"Lambda Chat is ready at http://{_host_for_people()}:{settings.PORT}  (Ctrl-C ends it)")
            time.sleep(0.2)

    def _check_servers(self) -> None:
        for place, (name, server) in enumerate(self.servers):
            if server.poll() is None:
                continue
            if name != "redis":
                raise CannotRun(f"{name} ended with status {server.returncode}; its lines above say why.")
            # Redis holds nothing that is not in PostgreSQL: a new one is as good, and everyone connects again.
            _say(name, f"ended with status {server.returncode}; starting it again")
            again = embedded.start_redis(settings.DATA_DIR, output=subprocess.PIPE)
            self.servers[place] = (name, again)
            self._relay(name, again)

    def _restart_if_dead(self, child: Child) -> None:
        now = time.monotonic()
        if child.restart_at is not None:
            if now >= child.restart_at:
                self._start(child)
            return
        if child.process is None or child.process.poll() is None:
            return
        young = now - child.started_at < RESTART_MAX_S
        child.wait_s = min(child.wait_s * 2, RESTART_MAX_S) if young else RESTART_MIN_S
        child.restart_at = now + child.wait_s
        status = child.process.returncode
        _say(child.name, f"ended with status {status}; starting it again in {child.wait_s:.0f} s")

    def _relay(self, name: str, process: subprocess.Popen[bytes]) -> None:
        threading.Thread(target=_copy_lines, args=[name, process.stdout], daemon=True).start()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.stopping:
            for child in self.children:
                if child.process:
                    child.process.kill()
            return
        self.stopping = True
        raise _Stop

    def _stop(self) -> None:
        """End the children, who may finish their answers, then the servers; a second signal ends them at once."""
        self.stopping = True
        running = [child.process for child in self.children if child.process and child.process.poll() is None]
        if running:
            _say("stop", "ending; answers that are being written have 20 s (Ctrl-C again: at once)")
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in running:
            _wait_or_kill(process, deadline)
        for _, server in reversed(self.servers):
            # PostgreSQL's fast shutdown is SIGINT; Redis ends on it as well.
            server.send_signal(signal.SIGINT)
            _wait_or_kill(server, time.monotonic() + embedded.STOP_TIMEOUT_S)


class _Stop(Exception):
    """A signal asked us to end."""


def _wait_or_kill(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _lock_data_dir() -> IO[str]:
    """Hold DATA_DIR for this process; the kernel lets go of it however the process ends."""
    settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
    file = open(settings.DATA_DIR / "lock", "w")  # noqa: SIM115 - held until the end of the process
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CannotRun(
            f"Another `make run` uses {settings.DATA_DIR}; end it, or set DATA_DIR to another folder."
        ) from None
    return file


def disk_problem(folder: Path, *, free_bytes: int) -> str:
    """Why there is too little room, in one sentence; empty where there is enough."""
    if free_bytes >= FREE_DISK_MIN_BYTES:
        return ""
    needed, free = f"{FREE_DISK_MIN_BYTES / 1e6:,.0f} MB", f"{free_bytes / 1e6:,.0f} MB"
    return f"{folder} has {free} free, and {needed} are needed; free some, or set DATA_DIR to another disk."


def _check_port() -> None:
    family = socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.HOST, settings.PORT))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CannotRun(
                    f"Port {settings.PORT} is in use; choose another, for example `make run PORT=8001`."
                ) from None
            raise CannotRun(f"{settings.HOST}:{settings.PORT} cannot be opened: {error.strerror}.") from None


def _models_to_run() -> list[ModelSpec]:
    known = catalog()
    try:
        return [known.get(slug) for slug in settings.RUN_MODELS] or [known.default]
    except KeyError as error:
        raise CannotRun(f"RUN_MODELS names a model that {settings.MODELS_FILE} does not have: {error}.") from None


def _ready() -> bool:
    try:
        address = f"http://{_host_for_people()}:{settings.PORT}/readyz"
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(json.load(answer)["ready"])
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _host_for_people() -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.HOST, settings.HOST)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host


def _copy_lines(name: str, source: IO[bytes]) -> None:
    for line in source:
        _say(name, line.decode(errors="replace").rstrip("\n"))


def _say(name: str, line: str) -> None:
    label = f"{name:<9} │"
    if sys.stdout.isatty():
        label = f"\x1b[{COLOURS[sum(name.encode()) % len(COLOURS)]}m{label}\x1b[0m"
    print(f"{label} {line}", flush=True)
