"""A process of the benchmark's own, which is asked and answers in lines of JSON: both ends of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Self

import django

from bench.place import ROOT
from config.embedded import die_with_parent


class Helper:
    """The asking end, of a process that runs a module's `main`. It ends with the `with` block, or with its parent."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, module, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - no thread runs yet
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, message: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next line. Blocks; raises RuntimeError where the process has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with status {self._process.wait()}")
        return json.loads(line)


def answer(message: object) -> None:
    """A helper's line to whoever started it."""
    print(json.dumps(message), flush=True)


def questions() -> Iterator[Any]:
    """What a helper is asked, until its parent closes the line."""
    for line in sys.stdin:
        yield json.loads(line)


def _run(module: str, *arguments: str) -> None:
    django.setup()
    import_module(module).main(*arguments)


if __name__ == "__main__":
    _run(*sys.argv[1:])
