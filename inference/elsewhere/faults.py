"""What an engine elsewhere can answer instead of an answer, and what that means for the request.

    Fault
    ├── Unreachable    no connection, or it ended before anything was said: another try may help
    │   └── Silent         nothing was said for so long that another try is of no use
    ├── Busy           429 or 503: another try may help, after the time that the server named
    ├── Refused        it does not take this request, and another try would change nothing
    │   ├── TooLong        prompt and answer do not fit into its context
    │   └── UnknownOption  it does not know a field that can be left out
    └── Broken         what it said stalled, broke off or made no sense

Their words are for the operator's log and hold nothing of what the server said, which may quote what people wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from inference.errors import (
    ContextExceeded,
    EngineFailed,
    GenerationError,
    ModelBusy,
    ModelRefused,
    ModelUnreachable,
)

# Fields of a request that not every server knows, and how the answer reads without them.
USAGE_OPTIONS = ("continuous_usage_stats", "stream_options")

_CONTEXT = re.compile(
    r"context[ _](length|window|size)|exceed_context|max_model_len|maximum (model|input|prompt) length", re.IGNORECASE
)
_NUMBER = r"([\d,]{1,12})"
_LIMIT = re.compile(rf"(?:context|model) (?:length|size)(?: is| of| only)*\s*\(?{_NUMBER}", re.IGNORECASE)
_PROMPT = (
    re.compile(rf"{_NUMBER} (?:tokens )?(?:in|from) the (?:input )?(?:messages|prompt)", re.IGNORECASE),
    re.compile(rf"{_NUMBER} input tokens", re.IGNORECASE),
    re.compile(rf"(?:input|request) \({_NUMBER} tokens\)", re.IGNORECASE),
)


class Fault(Exception):
    """The engine elsewhere did not answer as it should; `error` is what the person is told."""

    error: type[GenerationError] = EngineFailed


class Unreachable(Fault):
    """There is no connection, or it ended before anything was said."""

    error = ModelUnreachable


class Silent(Unreachable):
    """Nothing was said for longer than anybody waits."""


class Busy(Fault):
    """The server asks to come again. retry_after_s: when, 0.0 where it does not say."""

    error = ModelBusy

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Refused(Fault):
    """The server does not take this request."""

    error: type[GenerationError] = ModelRefused


class TooLong(Refused):
    """Prompt and answer do not fit into the context. The figures are the server's, None where it tells none."""

    error = ContextExceeded

    def __init__(self, prompt_tokens: int | None, limit: int | None) -> None:
        super().__init__("The server says that the request does not fit into its context.")
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class UnknownOption(Refused):
    """The server refuses a field that can be left out."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The server does not take {name}.")
        self.name = name


class Broken(Fault):
    """What the server said stalled, broke off or made no sense."""


def of_response(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """What a response that is no stream means. body: its beginning."""
    said = f"The server answered with status {status}."
    if status in (429, 503):
        return Busy(said, retry_after_s(headers.get("retry-after", "")))
    if status >= 500:
        return Unreachable(said)
    if status in (400, 413, 422):
        return _of_words(message(body), Refused(said))
    return Refused(said)


def of_error(error: object) -> Fault:
    """What an error object within a stream means."""
    fields = error if isinstance(error, dict) else {}
    code = fields.get("code")
    said = "The server told of an error in the stream."
    if code in (429, 503):
        return Busy(said, 0.0)
    if isinstance(code, int) and 400 <= code < 500:
        return _of_words(str(fields.get("message", "")), Refused(said))
    return _of_words(str(fields.get("message", error)), Broken(said))


def message(body: bytes) -> str:
    """The words of an error body, in the shapes of vLLM and OpenAI (`error.message`), SGLang (`message`), FastAPI
    (`detail`); else the whole body."""
    text = body.decode(errors="replace")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(fields, dict):
        return text
    error = fields.get("error", fields)
    if not isinstance(error, dict):
        return str(error)
    return " ".join(str(error[name]) for name in ("code", "type", "message", "detail") if name in error)


def retry_after_s(header: str, now: datetime | None = None) -> float:
    """Seconds or an HTTP date (RFC 9110, 10.2.3); 0.0 for anything else."""
    try:
        return max(0.0, float(int(header)))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds())


def _of_words(words: str, otherwise: Fault) -> Fault:
    for option in USAGE_OPTIONS:
        if option in words:
            return UnknownOption(option)
    if not _CONTEXT.search(words):
        return otherwise
    prompt = next((found for pattern in _PROMPT if (found := pattern.search(words))), None)
    return TooLong(_number(prompt), _number(_LIMIT.search(words)))


def _number(found: re.Match[str] | None) -> int | None:
    digits = found[1].replace(",", "") if found else ""
    return int(digits) if digits else None
