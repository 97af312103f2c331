"""A server that speaks vLLM's wire to the byte, over real HTTP on loopback, and answers as a test scripts it.

Each request to /chat/completions takes the next script: a coroutine that writes what it likes. Where none is left, the
server says REPLY. It keeps every request, and when each connection was left by its client.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

REPLY = ("Once", " upon", " a", " time", ".")
PROMPT_TOKENS = 11
NAME = "org/large"


@dataclass
class Exchange:
    """One request and the response to it. `left` is set once the client has closed the connection."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    left: asyncio.Event = field(default_factory=asyncio.Event)
    left_at: float = 0.0
    tokens: int = 0
    sent_bytes: int = 0

    @property
    def continuous(self) -> bool:
        return bool(self.body.get("stream_options", {}).get("continuous_usage_stats"))

    async def head(self, status: int = 200, kind: str = "text/event-stream; charset=utf-8", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", "Transfer-Encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self._write(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def raw(self, data: bytes) -> None:
        """One chunk of the transfer encoding."""
        await self._write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def event(self, document: object) -> None:
        await self.raw(b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n")

    async def chunk(self, *, reason: str | None = None, usage: object = None, **delta: object) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        await self.event(self._document([choice], usage))

    async def token(self, text: str, *, name: str = "content", tokens: int = 1) -> None:
        self.tokens += tokens
        await self.chunk(**{name: text}, usage=self.usage() if self.continuous else None)

    async def begin(self) -> None:
        await self.head()
        await self.chunk(role="assistant", content="", usage=self.usage() if self.continuous else None)

    async def finish(self, reason: str = "stop", *, usage: object = "own") -> None:
        await self.chunk(reason=reason)
        if usage == "own" and self.body.get("stream_options", {}).get("include_usage"):
            usage = self.usage()
        if isinstance(usage, dict):
            await self.event(self._document([], usage))
        await self.raw(b"data: [DONE]\n\n")
        await self.end()

    async def end(self) -> None:
        await self._write(b"0\r\n\r\n")

    async def refuse(self, status: int, document: object, **headers: str) -> None:
        await self.head(status, "application/json", **headers)
        await self.raw(json.dumps(document).encode())
        await self.end()

    def leave(self) -> None:
        """The client has gone, which reading or writing tells first."""
        if not self.left.is_set():
            self.left_at = time.monotonic()
            self.left.set()

    def cut(self) -> None:
        """Break the connection off."""
        self.writer.transport.abort()

    def usage(self, **changed: object) -> dict[str, object]:
        return {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": self.tokens,
            "total_tokens": PROMPT_TOKENS + self.tokens,
            "prompt_tokens_details": None,
            **changed,
        }

    def _document(self, choices: list[dict[str, object]], usage: object) -> dict[str, object]:
        document = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": NAME}
        return {**document, "choices": choices, "usage": usage}

    async def _write(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        self.writer.write(data)
        await self.writer.drain()


Script = Callable[[Exchange], Awaitable[None]]


def says(*texts: str, pause_s: float = 0.0, reason: str = "stop", thoughts: Sequence[str] = ()) -> Script:
    """A whole answer, a token a piece."""

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for thought in thoughts:
            await exchange.token(thought, name="reasoning_content")
        for text in texts:
            await asyncio.sleep(pause_s)
            await exchange.token(text)
        await exchange.finish(reason)

    return script


def refuses(status: int, message: str = "no", **headers: str) -> Script:
    """An error as vLLM's server words it."""

    async def script(exchange: Exchange) -> None:
        error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        await exchange.refuse(status, {"error": error}, **headers)

    return script


def counts(words: str, *, limit: int = 1000, bytes_per_token: float = 4.0) -> Script:
    """REPLY, but a refusal in these words where what is asked for has more tokens than the context."""

    async def script(exchange: Exchange) -> None:
        prompt = round(sum(len(turn["content"]) for turn in exchange.body["messages"]) / bytes_per_token)
        answer = exchange.body["max_tokens"]
        if prompt + answer > limit:
            text = words.format(prompt=prompt, answer=answer, total=prompt + answer, limit=limit)
            await refuses(400, text)(exchange)
        else:
            await says(*REPLY)(exchange)

    return script


class Server:
    """On a thread of its own. owner and context_length are what it lists its model with."""

    def __init__(self, port: int = 0) -> None:
        self.owner = "vllm"
        self.context_length: int | None = 4096
        self.names = [NAME]
        self.listing: dict[str, object] | None = None
        self.lose_looks = 0
        self.scripts: deque[Script] = deque()
        self.exchanges: list[Exchange] = []
        self.port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: asyncio.Server | None = None
        self._started = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def asked(self) -> list[Exchange]:
        """The requests for answers."""
        return [exchange for exchange in self.exchanges if exchange.method == "POST"]

    def script(self, *scripts: Script) -> None:
        self.scripts.extend(scripts)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def stop_listening(self) -> None:
        """From now on connections are refused, and those that there are break."""
        self._on_loop(self._close)

    def listen_again(self) -> None:
        self._on_loop(self._listen)

    def stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self._listen()
        self._started.set()
        await self._stop.wait()
        await self._close()

    async def _listen(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._listening is not None:
            self._listening.close()
        # One that was accepted a moment ago has its task started only now.
        quiet = 0
        while quiet < 3:
            quiet = 0 if self._writers else quiet + 1
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0.01)

    def _on_loop(self, operation: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(operation(), self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (exchange := await _read(reader, writer)) is not None:
                self.exchanges.append(exchange)
                if exchange.method == "GET" and self.lose_looks:
                    self.lose_looks -= 1
                    writer.transport.abort()
                    break
                waiting = asyncio.create_task(_watch(reader, exchange))
                try:
                    await self._respond(exchange)
                except ConnectionError:
                    exchange.leave()
                    raise
                finally:
                    waiting.cancel()
        self._writers.discard(writer)
        writer.close()

    async def _respond(self, exchange: Exchange) -> None:
        if exchange.method == "GET":
            models = [self._model(name) for name in self.names]
            return await exchange.refuse(200, self.listing or {"object": "list", "data": models})
        script = self.scripts.popleft() if self.scripts else says(*REPLY)
        await script(exchange)

    def _model(self, name: str) -> dict[str, object]:
        listed = {"id": name, "object": "model", "created": 1, "owned_by": self.owner, "root": f"/weights/{name}"}
        return {**listed, "max_model_len": self.context_length}


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    head = await reader.readuntil(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    method, path, _ = request.split(" ")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    original = dict(line.split(": ", 1) for line in lines if line)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    named = {name.lower(): value for name, value in original.items()}
    return Exchange(method, path, named, json.loads(body) if body else {}, writer)


async def _watch(reader: asyncio.StreamReader, exchange: Exchange) -> None:
    """Nothing comes while a response is written, but the end of the connection."""
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 - reading would take the next request's
        await asyncio.sleep(0.005)
    exchange.leave()


@contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    server = Server(port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
