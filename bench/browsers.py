"""Helper: many browsers in one process, a WebSocket each, which follow one generation each and acknowledge.

The question is a list of {"cookie", "generation"}. It answers "following" once each has heard of its generation, and
when all are done, for each, the frames with text: [event number, milliseconds of the monotonic clock].
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from bench import visitor
from bench.lines import answer, questions

ACK_S = 1.0
ACK_BYTES = 16 * 1024


class Frame(msgspec.Struct):
    type: str
    id: str = ""
    text: str = ""


_decoder = msgspec.json.Decoder(Frame)


class Browser:
    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.heard = asyncio.Event()
        self.received: list[tuple[int, float]] = []
        self.characters = 0
        self._acknowledged_at = time.monotonic()
        self._unacknowledged = 0

    async def read(self, cookie: str) -> None:
        """Follow the generation to its end."""
        async with connect(visitor.address(), additional_headers=visitor.headers(cookie)) as socket:
            await socket.send(f'{{"type":"follow","generation":"{self.generation}","after":null}}')
            async for message in socket:
                now = time.monotonic()
                frame = _decoder.decode(message)
                if frame.type == "delta":
                    self.received.append((int(frame.id.partition("-")[2]), now * 1000))
                    self.characters += len(frame.text)
                    await self._acknowledge(socket, frame.id, len(message), now)
                elif frame.type == "replace":
                    self.characters = len(frame.text)
                elif frame.type == "done":
                    return
                self.heard.set()

    async def _acknowledge(self, socket: ClientConnection, event: str, size: int, now: float) -> None:
        self._unacknowledged += size
        if self._unacknowledged >= ACK_BYTES or now - self._acknowledged_at >= ACK_S:
            self._unacknowledged, self._acknowledged_at = 0, now
            await socket.send(f'{{"type":"ack","generation":"{self.generation}","id":"{event}"}}')


async def run(streams: list[dict[str, Any]]) -> None:
    browsers = [Browser(stream["generation"]) for stream in streams]
    pairs = zip(browsers, streams, strict=True)
    readers = [asyncio.create_task(browser.read(stream["cookie"])) for browser, stream in pairs]
    await asyncio.gather(*(browser.heard.wait() for browser in browsers))
    answer("following")
    await asyncio.gather(*readers)
    answer([{"received": browser.received, "characters": browser.characters} for browser in browsers])


def main() -> None:
    asyncio.run(run(next(questions())))
