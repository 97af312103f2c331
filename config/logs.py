"""Logs that an operator can search and that hold nothing of what people write.

A line carries its message and the extra fields of an allow-list: ids, counts, timings. Fields outside the list are
dropped here, whatever a caller passes, and so are exceptions' own words (`str(error)` may quote a person's text or a
password): a traceback keeps its frames and types.
"""

from __future__ import annotations

import json
import logging
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime

FIELDS = (
    "request_id",
    "generation",
    "conversation",
    "owner",
    "model",
    "worker",
    "door",
    "state",
    "epoch",
    "code",
    "status",
    "method",
    "route",
    "duration_ms",
    "ttft_ms",
    "queue_ms",
    "prompt_tokens",
    "completion_tokens",
    "tokens_per_s",
    "count",
    "device",
    "share",
    "reason",
)
request_id: ContextVar[str] = ContextVar("request_id", default="")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    values = {name: getattr(record, name) for name in FIELDS if getattr(record, name, None) not in (None, "")}
    if "request_id" not in values and request_id.get():
        values = {"request_id": request_id.get(), **values}
    return values


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    frames = "".join(traceback.format_tb(record.exc_info[2]))
    return f"{frames}{record.exc_info[0].__module__}.{record.exc_info[0].__qualname__}"


class UnhandledOnly(logging.Filter):
    """Keeps what has a traceback. Django's own line for every 4xx and 503 repeats the address that was asked for."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info)


class LineFormatter(logging.Formatter):
    """`12:00:00 warning  worker lost  generation=… count=2`, for a terminal.

    `tell_errors` adds the exceptions' own words: for a developer's machine alone.
    """

    def __init__(self, *, tell_errors: bool = False) -> None:
        super().__init__()
        self._tell_errors = tell_errors

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = f"{clock} {record.levelname.lower():<8}{record.getMessage()}" + (f"  {fields}" if fields else "")
        trace = _traceback(record)
        if trace and self._tell_errors and record.exc_info:
            trace += f": {record.exc_info[1]}"
        return f"{line}\n{trace}" if trace else line


class JSONFormatter(logging.Formatter):
    """One JSON object a line, for a log collector."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"at": at, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage(), **_fields(record)}
        trace = _traceback(record)
        if trace:
            line["traceback"] = trace
        return json.dumps(line, default=str)
