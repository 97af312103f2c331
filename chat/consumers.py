"""The chat's WebSocket: frames in, operations called, events out (docs/protocol.md).

One task per followed generation, each with a window of unacknowledged bytes instead of a queue. Nothing of a generation
ends when a socket does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from channels.consumer import get_handler_name
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import InterfaceError, OperationalError
from redis.exceptions import RedisError

from accounts import guests
from accounts.models import User
from chat import conversations, frames, presence, questions
from chat.window import SlowReader, Window
from inference import generations, stream
from inference.errors import BadFrame, DomainError, SessionGone, TooManyConnections, TooManyFollowed, Unavailable
from inference.following import follow
from inference.reader import readers
from inference.stream import EventId
from inference.threads import on_thread

log = logging.getLogger("socket")

SESSION_GONE = 4401
CROWDED = 4429
SLOW = 1013
FOLLOWED_MAX = 16
RECHECK_S = 30.0
RETRY_S = 1.0
# What an entry of an owner's stream is about.
NEWS = {b"g": "generation_id", b"c": "conversation_id"}
DATABASE_AWAY = (OperationalError, InterfaceError)


class ChatConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One browser tab."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner: User | None = None
        self.windows: dict[uuid.UUID, Window] = {}
        self.following: dict[uuid.UUID, asyncio.Task[None]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.watching = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Channels calls `disconnect` only when all goes well; the tasks of a socket end with it in any case."""
        with contextlib.ExitStack() as self.open:
            try:
                await super().__call__(scope, receive, send)
            finally:
                for task in [*self.following.values(), *self.tasks]:
                    task.cancel()

    async def connect(self) -> None:
        self.session_key: str = self.scope["cookies"].get(settings.SESSION_COOKIE_NAME, "")
        if not self.session_key:
            await self.close()
            return
        await self.accept()
        try:
            self.open.enter_context(presence.connected(self.session_key))
        except TooManyConnections as error:
            await self._send(frames.refusal(error, {}))
            await self.close(CROWDED)
            return
        if await self._recheck():
            self._spawn(self._recheck_for_ever())

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Channels' own, but for its visit to a thread with each frame, an acknowledgement too: `on_thread` closes what
        it opens."""
        await getattr(self, get_handler_name(message))(message)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        asks: dict[str, uuid.UUID] = {}
        try:
            if text_data is None:
                raise BadFrame(detail="frames are text")
            frame = frames.decode(text_data)
            asks = frame.asks
            await self._obey(frame)
        except guests.SessionExpired:
            await self._send(frames.refusal(SessionGone(), asks))
            await self.close(SESSION_GONE)
        except DomainError as error:
            await self._send(frames.refusal(error, asks))
        except DATABASE_AWAY:
            log.warning("PostgreSQL does not answer")
            await self._send(frames.refusal(Unavailable(), asks))

    async def _obey(self, frame: frames.ClientFrame) -> None:
        match frame:
            case frames.Ack(generation=generation, id=at):
                if window := self.windows.get(generation):
                    window.acknowledge(EventId.parse(at))
            case frames.Send():
                await self._start(frame, partial(questions.send, frame=frame))
            case frames.Edit():
                await self._start(frame, partial(questions.edit, frame=frame))
            case frames.Regenerate():
                await self._start(frame, partial(questions.regenerate, frame=frame))
            case frames.Continue():
                await self._start(frame, partial(questions.go_on, frame=frame))
            case frames.Follow(generation=generation, after=after):
                await on_thread(lambda: conversations.generation_of(self._current_owner(), generation))
                self._follow(generation, EventId.parse(after) if after else None)
            case frames.Move(generation=generation, model=model):
                await on_thread(
                    lambda: generations.move(conversations.generation_of(self._current_owner(), generation), model)
                )
            case frames.StopFrame(generation=generation):
                await on_thread(
                    lambda: generations.cancel(conversations.generation_of(self._current_owner(), generation))
                )

    async def _start(self, frame: frames.Asking, operation: Callable[..., questions.Sent]) -> None:
        """Each frame is a request of its own, with an id as an HTTP request has one."""
        request_id = uuid.uuid4().hex
        sent = await on_thread(lambda: operation(self._ensure_owner(), request_id=request_id))
        told = {"generation": sent.generation, "conversation": sent.conversation, "model": frame.model}
        log.info("accepted", extra={"request_id": request_id, **told})
        unheard = not self.watching
        self._watch_owner()
        accepted = frames.Accepted(
            key=frame.key, conversation=sent.conversation, message=sent.message, generation=sent.generation
        )
        await self._send(accepted)
        self._follow(sent.generation, None)
        if unheard and self.owner:
            # A guest's first message makes the owner whose news this tab hears: its own beginning was before that.
            await self._tell_change(partial(conversations.change, self.owner, generation_id=sent.generation))

    def _ensure_owner(self) -> User:
        self.owner = guests.ensure_owner(self.session_key)
        self.owner.seen()
        return self.owner

    def _current_owner(self) -> User | None:
        self.owner = guests.owner_of(self.session_key)
        return self.owner

    def _follow(self, generation: uuid.UUID, after: EventId | None) -> None:
        if previous := self.following.pop(generation, None):
            previous.cancel()
        if len(self.following) >= FOLLOWED_MAX:
            raise TooManyFollowed(limit=FOLLOWED_MAX)
        window = self.windows[generation] = Window()
        task = asyncio.create_task(self._stream(generation, after, window))
        self.following[generation] = task
        task.add_done_callback(lambda done: self._forget(generation, done))

    def _forget(self, generation: uuid.UUID, task: asyncio.Task[None]) -> None:
        _report(task)
        if self.following.get(generation) is task:
            del self.following[generation], self.windows[generation]

    async def _stream(self, generation: uuid.UUID, after: EventId | None, window: Window) -> None:
        """Send what happens to a generation until it has ended, at the pace at which the reader acknowledges."""
        while True:
            try:
                async with contextlib.aclosing(follow(generation, after)) as items:
                    async for item in items:
                        text = frames.encode(frames.outgoing(generation, item))
                        after = getattr(item, "id", after)
                        await self.base_send({"type": "websocket.send", "text": text})
                        window.sent(after, len(text))
                        await window.room()
                return
            except SlowReader:
                await self.close(SLOW)
                return
            except DATABASE_AWAY:
                log.warning("PostgreSQL does not answer", extra={"generation": generation})
                await asyncio.sleep(RETRY_S)

    async def _recheck(self) -> bool:
        """Whether the session lives still; closes the socket where it does not."""
        try:
            await on_thread(self._current_owner)
        except guests.SessionExpired:
            await self._send(frames.refusal(SessionGone(), {}))
            await self.close(SESSION_GONE)
            return False
        except DATABASE_AWAY:
            log.warning("session not checked: PostgreSQL does not answer")
        if self.owner:
            self._watch_owner()
        return True

    async def _recheck_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            if not await self._recheck():
                return

    def _watch_owner(self) -> None:
        if not self.watching and self.owner is not None:
            self.watching = True
            self._spawn(self._tell_changes(self.owner))

    async def _tell_changes(self, owner: User) -> None:
        """Tell this tab what begins, ends and changes in the others."""
        while True:
            try:
                async with readers().owners.follow_from_now(stream.owner_key(owner.pk), stream.OWNER_MAXLEN) as feed:
                    cursor = feed.cursor
                    while True:
                        for entry_id, fields in feed.after(cursor):
                            cursor = entry_id
                            about = {NEWS[name]: uuid.UUID(value.decode()) for name, value in fields.items()}
                            await self._tell_change(partial(conversations.change, owner, **about))
                        await feed.changed(RECHECK_S)
            except (RedisError, *DATABASE_AWAY):
                await asyncio.sleep(RETRY_S)

    async def _tell_change(self, change: Callable[[], frames.ConversationChanged | None]) -> None:
        if changed := await on_thread(change):
            await self._send(changed)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(_report)

    async def _send(self, frame: Any) -> None:
        await self.send(text_data=frames.encode(frame))


def _report(task: asyncio.Task[None]) -> None:
    """Nobody awaits these tasks; what breaks one must not pass in silence."""
    if not task.cancelled() and (error := task.exception()):
        log.error("a task of a socket broke", exc_info=error)
