"""What a server understands beyond OpenAI's API: told by its kind, or found out by what it refuses."""

from __future__ import annotations

from typing import Any

from inference.elsewhere.upstream import Listed
from inference.served import Resumed

VLLM = "vllm"
SGLANG = "sglang"

# What tells a server to count tokens, from the best to nothing.
_USAGE: tuple[dict[str, Any], ...] = (
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"stream_options": {"include_usage": True}},
    {},
)


class Dialect:
    """Of one server, shared by all its answers. For the event loop, but for `goes_on`."""

    def __init__(self) -> None:
        self._usage = 0

    def fields(self, served: Listed, salt: str) -> dict[str, Any]:
        """What a request has beside OpenAI's fields. salt: whose prefix cache it is; others cannot measure it."""
        salted = {"cache_salt": salt} if served.owner in (VLLM, SGLANG) else {}
        return {**_USAGE[self._usage], **salted}

    def forget(self, option: str) -> bool:
        """Leave out from now on what the server has refused. False where it was left out already."""
        level = 1 if option == "continuous_usage_stats" else 2
        if self._usage >= level:
            return False
        self._usage = level
        return True

    @staticmethod
    def goes_on(served: Listed, resumed: Resumed, *, reasons: bool) -> bool:
        """Whether the server can go on where another worker stopped, in the same sentence.

        Other servers than these two would begin again, and the text would be there twice. None can be told to go on in
        mid-thought. SGLang's templates open a new thought before the text, so that a model that reasons would think.
        """
        if not resumed.text and not resumed.reasoning:
            return True
        if not resumed.text:
            return False
        return served.owner == VLLM or (served.owner == SGLANG and not reasons and not resumed.reasoning)
