"""What is sent to POST /chat/completions and what comes back, chunk by chunk.

The shape is OpenAI's; vLLM's and SGLang's extensions are sent only where they change something, so that a strict server
is not asked for what it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference.elsewhere import faults
from inference.elsewhere.faults import Broken
from inference.types import FinishReason, Sampling, Turn

# Names under which servers tell what a model thinks aloud.
_REASONING = ("reasoning_content", "reasoning")
_LENGTH = ("length", "max_tokens")
# With these the server gave the answer up; any other reason is an end that it meant.
_GIVEN_UP = ("abort", "error", "cancelled")


@dataclass(frozen=True, slots=True)
class Chunk:
    """One `chat.completion.chunk`, its first choice alone. usage is as the server says it, unchecked."""

    text: str = ""
    reasoning: str = ""
    finish_reason: FinishReason | None = None
    usage: object = None


def fields(model: str, turns: Sequence[Turn], sampling: Sampling, *, said: str = "") -> dict[str, Any]:
    """The body of a streamed request, without the options of USAGE_FIELDS.

    said: how the answer begins; vLLM and SGLang go on after its last character.
    """
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    going_on: dict[str, Any] = {}
    if said:
        messages.append({"role": "assistant", "content": said})
        going_on = {"continue_final_message": True, "add_generation_prompt": False}
    return {
        "model": model,
        "messages": messages,
        "stream": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        **_changed(sampling),
        **going_on,
    }


def read(data: str) -> Chunk:
    """Parse an event's data. Raises the Fault that an error object means, and Broken for what is no chunk."""
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Broken("The server sent an event that is no JSON.") from error
    if not isinstance(chunk, dict):
        raise Broken("The server sent an event that is no chunk.")
    if chunk.get("error"):
        raise faults.of_error(chunk["error"])
    if chunk.get("object") == "error":
        raise faults.of_error(chunk)
    choice = _first(chunk.get("choices"))
    delta = choice.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    reason = choice.get("finish_reason")
    return Chunk(
        text=_text(delta.get("content")),
        reasoning=next((text for name in _REASONING if (text := _text(delta.get(name)))), ""),
        finish_reason=None if reason is None else _reason(reason),
        usage=chunk.get("usage"),
    )


def _changed(sampling: Sampling) -> dict[str, Any]:
    """The parameters that are not at their neutral value, under the names of OpenAI, vLLM and SGLang."""
    values: dict[str, tuple[Any, bool]] = {
        "stop": (list(sampling.stop), bool(sampling.stop)),
        "presence_penalty": (sampling.presence_penalty, sampling.presence_penalty != 0),
        "frequency_penalty": (sampling.frequency_penalty, sampling.frequency_penalty != 0),
        "logit_bias": ({str(token): added for token, added in sampling.logit_bias}, bool(sampling.logit_bias)),
        "top_k": (sampling.top_k, sampling.top_k != 0),
        "min_p": (sampling.min_p, sampling.min_p != 0),
        "repetition_penalty": (sampling.repetition_penalty, sampling.repetition_penalty != 1),
        "stop_token_ids": (list(sampling.stop_ids), bool(sampling.stop_ids)),
        "min_tokens": (sampling.min_tokens, sampling.min_tokens > 0),
    }
    return {name: value for name, (value, changed) in values.items() if changed}


def _first(choices: object) -> dict[str, Any]:
    """The choice of index 0; usage alone comes with none."""
    if not isinstance(choices, list):
        return {}
    return next((found for found in choices if isinstance(found, dict) and found.get("index", 0) == 0), {})


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _reason(value: object) -> FinishReason:
    """Raises Broken where the server gave the answer up."""
    if value in _GIVEN_UP:
        raise Broken("The server gave the answer up.")
    return FinishReason.LENGTH if value in _LENGTH else FinishReason.STOP
