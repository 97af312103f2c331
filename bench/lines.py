"""Lines of JSON: how a helper is asked and answers. The standard library alone, for interpreters that have no more."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any


def answer(message: object) -> None:
    """A helper's line to whoever started it."""
    print(json.dumps(message), flush=True)


def questions() -> Iterator[Any]:
    """What a helper is asked, until its parent closes the line."""
    for line in sys.stdin:
        yield json.loads(line)
