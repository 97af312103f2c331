"""What an answer has to match, in the words of each kind of server.

Schemas are OpenAI's; patterns and choices have no place in its API, so only servers are asked that have one of their
own.
"""

from __future__ import annotations

import json
from typing import Any

from inference.elsewhere.upstream import SGLANG, VLLM, Listed
from inference.types import Grammar, GrammarKind


def fields(grammar: Grammar | None, served: Listed) -> dict[str, Any] | None:
    """What a request has for it; None where the server cannot be told."""
    if grammar is None:
        return {}
    if grammar.kind is GrammarKind.JSON_OBJECT:
        return {"response_format": {"type": "json_object"}}
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        schema = {"name": "answer", "schema": json.loads(grammar.text), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if served.owner == VLLM:
        named = "regex" if grammar.kind is GrammarKind.REGEX else "choice"
        return {"structured_outputs": {named: grammar.text if named == "regex" else json.loads(grammar.text)}}
    if served.owner == SGLANG:
        return {"regex": grammar.text} if grammar.kind is GrammarKind.REGEX else {"ebnf": _alternatives(grammar.text)}
    return None


def _alternatives(choices: str) -> str:
    """EBNF's strings are escaped as JSON's are."""
    return "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in json.loads(choices))
