"""A process of the benchmark's own, which is asked and answers in lines of JSON (`lines`): the asking end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib import import_module
from typing import Any, Self

import django

from bench.place import ROOT
from config.embedded import die_with_parent


class Helper:
    """A process that runs a module's `main`. It ends with the `with` block, or with its parent.

    python: an interpreter that has none of the project's packages; the module is then run as a program, by itself.
    """

    def __init__(self, module: str, *arguments: object, python: str | None = None) -> None:
        command = [python, "-m"] if python else [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(
            [*command, module, *map(str, arguments)],
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

    def ask(self, message: object) -> Any:
        """Say and hear."""
        self.say(message)
        return self.hear()


def _run(module: str, *arguments: str) -> None:
    django.setup()
    import_module(module).main(*arguments)


if __name__ == "__main__":
    _run(*sys.argv[1:])
