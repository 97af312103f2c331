"""A client of docs/protocol.md for tests: one session, one socket, frames as dictionaries."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

Frame = dict[str, Any]
TERMINAL = ("done", "cancelled", "interrupted", "failed")


class Answer:
    """What a client shows of one generation: deltas appended, a replace taken over, ids it has ignored."""

    def __init__(self) -> None:
        self.text = ""
        self.last: str | None = None
        self.frames: list[Frame] = []
        self.done: Frame | None = None

    def take(self, frame: Frame) -> None:
        self.frames.append(frame)
        if frame["type"] == "delta" and _newer(frame["id"], self.last):
            self.text += frame["text"]
            self.last = frame["id"]
        elif frame["type"] == "replace":
            self.text, self.last = frame["text"], frame["id"]
        elif frame["type"] == "done":
            self.done = frame

    @property
    def deltas(self) -> list[str]:
        return [frame["text"] for frame in self.frames if frame["type"] == "delta"]


class Guest:
    """A visitor: `GET /` for the session, then sockets and requests with its cookie."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.http = httpx.Client(base_url=base, timeout=20)

    def __enter__(self) -> Guest:
        response = self.http.get("/")
        if response.status_code != 200:
            self.http.close()
            response.raise_for_status()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.close()

    @contextmanager
    def socket(self) -> Iterator[Socket]:
        cookie = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        address = self.base.replace("http", "ws", 1) + "/ws/chat/"
        headers = {"Cookie": cookie, "Origin": self.base}
        # No pings: a test that waits for something else leaves frames unread, and behind sixteen of them every pong.
        options = {"max_size": None, "close_timeout": 2, "ping_interval": None}
        with connect(address, additional_headers=headers, **options) as connection:
            yield Socket(connection)

    def conversation(self, conversation: str) -> Frame:
        response = self.http.get(f"/conversations/{conversation}")
        response.raise_for_status()
        return response.json()  # type: ignore[no-any-return]

    def write(self, method: str, address: str, body: Any) -> httpx.Response:
        """A request as the page sends it, with its CSRF token."""
        return self.http.request(method, address, json=body, headers={"X-CSRFToken": self.http.cookies["csrftoken"]})

    def show(self, conversation: str, message: str) -> list[Frame]:
        """Switch to the branch of a message; the visible messages."""
        response = self.write("PATCH", f"/conversations/{conversation}", {"shown": message})
        response.raise_for_status()
        return response.json()["messages"]  # type: ignore[no-any-return]

    def stored(self, sent: Frame) -> Frame:
        """The answer of an `accepted` frame as the server has it stored."""
        messages = self.conversation(sent["conversation"])["messages"]
        return next(m for m in messages if m["generation"] and m["generation"]["id"] == sent["generation"])


class Socket:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def put(self, **frame: Any) -> None:
        self.connection.send(json.dumps(frame))

    def get(self, timeout_s: float = 30) -> Frame:
        return json.loads(self.connection.recv(timeout_s))  # type: ignore[no-any-return]

    def rest(self, silence_s: float) -> list[Frame]:
        """Everything that still comes, until nothing has come for a while."""
        frames: list[Frame] = []
        with suppress(TimeoutError):
            while True:
                frames.append(self.get(silence_s))
        return frames

    def until(self, wanted: Callable[[Frame], object], timeout_s: float = 30) -> Frame:
        """The next frame that is wanted; those before it are dropped."""
        deadline = time.monotonic() + timeout_s
        while True:
            frame = self.get(max(0.01, deadline - time.monotonic()))
            if wanted(frame):
                return frame

    def ask(self, content: str, model: str, **fields: Any) -> Frame:
        """Send a message; the `accepted` or `error` frame."""
        key = fields.pop("key", str(uuid.uuid4()))
        empty = {"conversation": None, "parent": None, "options": {}}
        self.put(type="send", key=key, content=content, model=model, **{**empty, **fields})
        return self.until(lambda frame: frame.get("key") == key)

    def follow(self, generation: str, after: str | None = None) -> None:
        self.put(type="follow", generation=generation, after=after)

    def read(
        self,
        generation: str,
        answer: Answer | None = None,
        until: Callable[[Answer], object] = lambda answer: answer.done,
    ) -> Answer:
        """Take a generation's frames, acknowledging each, until it is done or `until` holds."""
        answer = answer or Answer()
        while not until(answer):
            frame = self.get()
            if frame.get("generation") != generation or frame["type"] in ("accepted", "conversation"):
                continue
            if frame["type"] == "error":
                raise AssertionError(frame)
            answer.take(frame)
            if "id" in frame:
                self.put(type="ack", generation=generation, id=frame["id"])
        return answer

    def again(self, kind: str, model: str, **fields: Any) -> Frame:
        """A request about a message that is there, such as `regenerate`; the `accepted` or `error` frame."""
        key = fields.pop("key", str(uuid.uuid4()))
        self.put(type=kind, key=key, model=model, options={}, **fields)
        return self.until(lambda frame: frame.get("key") == key)

    def stop_all(self, sent: list[Frame]) -> dict[str, Frame]:
        """Stop these generations; the `done` frame of each by its id."""
        done: dict[str, Frame] = {}
        for frame in sent:
            self.put(type="stop", generation=frame["generation"])
        while len(done) < len(sent):
            frame = self.until(lambda frame: frame["type"] == "done")
            done[frame["generation"]] = frame
        return done

    def answer(self, content: str, model: str, **fields: Any) -> tuple[Frame, Answer]:
        """Ask, and read to the end."""
        sent = self.ask(content, model, **fields)
        if sent["type"] != "accepted":
            raise AssertionError(sent)
        return sent, self.read(sent["generation"])


def _newer(event: str, last: str | None) -> bool:
    return last is None or _order(event) > _order(last)


def _order(event: str) -> tuple[int, int]:
    epoch, _, seq = event.partition("-")
    return int(epoch), int(seq)
