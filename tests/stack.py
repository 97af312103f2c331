"""The product's own processes, started for the tests, and the models that their workers serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
from django.conf import settings

from config.embedded import die_with_parent
from inference import workers
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
TINY = "tiny"  # answers as fast as it can
SLOW = "tiny-slow"  # one token every 30 ms, so that there is a middle of an answer to act in
CROWD = "tiny-crowd"  # as slow, with a place for 32 at once
NARROW = "tiny-narrow"  # a context of 256 tokens
ABSENT = "tiny-absent"  # in the catalog, never started
ELSEWHERE = "tiny-elsewhere"  # its engine is one that a test starts, at ELSEWHERE_PORT
ELSEWHERE_PORT = free_port()
PACE_MS = {SLOW: 30, CROWD: 30}
SLOTS_USUAL = 4
SLOTS = {CROWD: 32}
DEADLINE_S = 60.0


def write_catalog(path: Path, original: Path, tiny: Path) -> None:
    """A models.toml with the tiny model under several names, and the product's default model as it stands."""
    models = tomllib.loads(original.read_text())["model"]
    default = next(model for model in models if model.get("default"))
    contexts = {TINY: 0, SLOW: 0, CROWD: 0, NARROW: 256, ABSENT: 0}
    rows = [_tiny_row(slug, f"path:{tiny}", context) for slug, context in contexts.items()]
    rows.append(_tiny_row(ELSEWHERE, f"openai:http://127.0.0.1:{ELSEWHERE_PORT}/v1", 0))
    text = original.read_text().split("[[model]]")
    kept = next(part for part in text[1:] if f'slug = "{default["slug"]}"' in part)
    path.write_text("\n".join(rows) + "\n[[model]]" + kept.replace("default = true", ""))


def _tiny_row(slug: str, source: str, context: int) -> str:
    return f"""[[model]]
slug = "{slug}"
name = "{slug.replace("-", " ").title()}"
maker = "Tests"
description = "Knows a few answers by heart."
licence = "Apache-2.0"
source = "{source}"
dtype = "float32"
context_length = {context or 2048}
prices = {{ prompt = 0, cached_prompt = 0, completion = 0 }}
capabilities = ["chat"]
sampling = {{ temperature = 0.0, top_p = 1.0, max_tokens = {(context or 2048) // 2} }}
{"default = true" if slug == TINY else ""}
"""


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Ask again until it holds; fail with `what` was waited for."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {deadline_s:.0f} s")
        time.sleep(0.02)


class Stack:
    """Web, scheduler and workers over the tests' DATA_DIR. Logs are kept for the tests that read them."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.base = f"http://127.0.0.1:{settings.PORT}"

    def start(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        with self.log_path(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), *(arguments or [name])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LOG_LEVEL": "INFO", **environment},
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        self.processes[name] = process
        return process

    def worker(self, model: str, **environment: str) -> subprocess.Popen[bytes]:
        """The worker of a model, started on first use and again where it has died; waits until it is ready."""
        running = self.processes.get(model)
        if running is None or running.poll() is not None:
            pace, slots = str(PACE_MS.get(model, 0)), str(SLOTS.get(model, SLOTS_USUAL))
            defaults = {"WORKER_PACE_MS": pace, "WORKER_THREADS": "1", "WORKER_SLOTS": slots}
            environment = {**defaults, **environment}
            running = self.start(model, "worker", "--model", model, "--device", "cpu", **environment)
        wait_until(lambda: self.name_of(running), f"the worker of {model}")
        return running

    @staticmethod
    def name_of(process: subprocess.Popen[bytes]) -> str | None:
        """What a worker process calls itself, once it is ready."""
        if process.poll() is not None:
            raise AssertionError(f"the worker ended with status {process.returncode}")
        marker = f"-{process.pid}@"
        return next((found.worker for found in workers.living() if marker in found.worker), None)

    def wait_for_web(self) -> None:
        def answers() -> bool:
            try:
                return httpx.get(f"{self.base}/healthz", timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(answers, "the web process")

    def log_path(self, name: str) -> Path:
        return Path(settings.DATA_DIR) / f"{name}.log"

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
