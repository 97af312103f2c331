"""The HTTP connections to an engine elsewhere.

Redirects are not followed and no proxy of the environment is used: a request goes to the host that the catalog names,
or nowhere. What is read is bounded, whatever the server sends.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from inference.catalog import OpenAISource
from inference.elsewhere import faults
from inference.elsewhere.faults import Broken, Fault, Refused, Unreachable

CONNECT_S = 5.0
WRITE_S = 30.0
# Longer than any wait that the reader allows: it knows whether a first token or the next one is waited for.
READ_S = 3600.0
MODELS_S = 5.0
KEEP_ALIVE_S = 60.0
EVENT_MAX_BYTES = 1024 * 1024
BODY_MAX_BYTES = 64 * 1024
LISTING_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as GET /models lists it. owner: the kind of server (vLLM and SGLang say so); root: what it was loaded
    from; context_length: None where it is not told."""

    name: str
    owner: str
    root: str
    context_length: int | None


def choose(listed: Sequence[Listed], name: str) -> Listed:
    """The model of that name, or the first where it is "". Raises Refused where it is not there."""
    found = next((model for model in listed if name in ("", model.name)), None)
    if found is None:
        raise Refused(f"The server does not list {name}." if name else "The server lists no model.")
    return found


async def look(source: OpenAISource, *, api_key: str) -> Listed:
    """Ask the server of a source once for its model. Raises Fault."""
    upstream = Upstream(source.url, api_key=api_key, connections=1)
    try:
        return choose(await upstream.models(), source.model)
    finally:
        await upstream.close()


class Upstream:
    """One server. Made, used and closed on one event loop."""

    def __init__(self, url: str, *, api_key: str, connections: int) -> None:
        # No compression: it would hold text back, and a small body could become an endless one.
        headers = {"Accept-Encoding": "identity", "User-Agent": "lambda-chat"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._client = httpx2.AsyncClient(
            base_url=f"{url}/",
            headers=headers,
            timeout=httpx2.Timeout(connect=CONNECT_S, write=WRITE_S, read=READ_S, pool=CONNECT_S),
            # One more: whether it answers is asked while all others are in use.
            limits=httpx2.Limits(
                max_connections=connections + 1, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_S
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def models(self) -> list[Listed]:
        """What the server has. Raises Fault."""
        try:
            async with self._client.stream("GET", "models", timeout=MODELS_S) as response:
                body = await _beginning(response, LISTING_MAX_BYTES)
                if response.status_code != 200:
                    raise faults.of_response(response.status_code, response.headers, body)
        except httpx2.HTTPError as error:
            raise Unreachable(_words(error)) from error
        return _listing(body)

    @asynccontextmanager
    async def answer(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[str]]:
        """The data of the events of a streamed answer, once the server has begun it. Raises Fault, later too.

        Leaving the block closes the connection unless all was read, which ends the answer at the server.
        """
        begun = False
        try:
            async with self._client.stream("POST", "chat/completions", json=body) as response:
                await _check(response)
                begun = True
                yield _events(response)
        except httpx2.HTTPError as error:
            raise (Broken if begun else Unreachable)(_words(error)) from error


async def _check(response: httpx2.Response) -> None:
    """Raises the Fault that a response which is no stream means."""
    status = response.status_code
    if status != 200:
        raise faults.of_response(status, response.headers, await _beginning(response, BODY_MAX_BYTES))
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/event-stream":
        raise Refused(f"The server answered with {kind[:80] or 'no content type'} instead of a stream.")


async def _events(response: httpx2.Response) -> AsyncIterator[str]:
    """Event streams are UTF-8 whatever the header says; other fields than data mean nothing here."""
    response.encoding = "utf-8"
    async for event in httpx2.EventSource(response, max_event_size=EVENT_MAX_BYTES):
        if event.data:
            yield event.data


async def _beginning(response: httpx2.Response, most_bytes: int) -> bytes:
    body = bytearray()
    async for block in response.aiter_bytes():
        body += block
        if len(body) >= most_bytes:
            break
    return bytes(body[:most_bytes])


def _listing(body: bytes) -> list[Listed]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _no_listing() from error
    rows = document.get("data") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise _no_listing()
    return [_listed(row) for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]


def _listed(row: dict[str, Any]) -> Listed:
    owner, root, length = row.get("owned_by"), row.get("root"), row.get("max_model_len")
    return Listed(
        name=row["id"],
        owner=owner if isinstance(owner, str) else "",
        root=root if isinstance(root, str) else "",
        context_length=length if type(length) is int and length > 0 else None,
    )


def _no_listing() -> Fault:
    return Refused("GET /models gave no list of models; is the address right, with its /v1?")


def _words(error: httpx2.HTTPError) -> str:
    """The kind alone: an exception's own words may hold addresses."""
    return f"The connection failed ({type(error).__name__})."
