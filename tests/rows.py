"""Generations made by hand, and a stand-in that writes them as a worker does, one step at a time."""

from __future__ import annotations

import uuid
from typing import Any

from django.utils import timezone

from accounts.models import User
from chat.copies import copy
from chat.models import Conversation, Message
from chat.snapshots import SharedMessage
from inference.models import Generation, Outcome, Progress
from inference.stream import TokenLog, unpack_ids


def queued(owner: User, **fields: Any) -> Generation:
    """A queued generation of a model of its own that no worker serves, with the messages around it."""
    values = {
        "owner": owner,
        "door": Generation.Door.CHAT,
        "model": f"absent-{uuid.uuid4().hex}",
        "prompt": [{"role": "user", "content": "hello"}],
        "sampling": {"temperature": 0, "top_p": 1, "top_k": 0, "max_tokens": 50, "seed": 1, "stop": []},
        "idempotency_key": uuid.uuid4(),
        "request_hash": b"\0" * 32,
    }
    generation = Generation.objects.create(**{**values, **fields})
    conversation = Conversation.objects.create(owner=owner, title="hello", model=generation.model)
    question = Message.objects.create(conversation=conversation, role="user", content="hello")
    answer = Message.objects.create(conversation=conversation, parent=question, role="assistant", generation=generation)
    conversation.leaf = answer
    conversation.save()
    return generation


def talk(owner: User, *texts: str, title: str = "A talk", reasoning: str = "") -> Conversation:
    """A conversation that is over: a question, an answer, a question, and so on."""
    messages = [
        SharedMessage("assistant", text, timezone.now(), model="tiny", reasoning=reasoning)
        if number % 2
        else SharedMessage("user", text, timezone.now())
        for number, text in enumerate(texts)
    ]
    return copy(owner, title=title, model="tiny", messages=messages)


class HandWorker:
    """Claims a generation, the oldest of its queue, and writes what it is told to; goes on where another left off."""

    def __init__(self, generation: Generation, name: str = "by-hand") -> None:
        claimed = Generation.objects.claim(name, model=generation.model, door=generation.door)
        assert claimed == generation
        self.generation = claimed
        self.log = TokenLog(claimed.pk, claimed.epoch)
        self.log.open(prompt_tokens=3, dropped_messages=0)
        claimed.read_prompt(prompt_tokens=3, dropped_messages=0, revision="r1")
        self.text = claimed.text
        self.ids = unpack_ids(bytes(claimed.token_ids))

    def write(self, text: str) -> None:
        """One entry of the log, one token a character."""
        ids = [ord(character) % 1000 for character in text]
        self.log.append(text, ids)
        self.text += text
        self.ids += ids

    @property
    def progress(self) -> Progress:
        return Progress(self.text, "", self.ids, len(self.ids), 0, self.log.seq)

    def save(self) -> bool:
        return bool(Generation.objects.persist(self.generation.worker, [(self.generation, self.progress)]))

    def finish(self, state: str = "done") -> bool:
        ended = self.generation.finish(Outcome(state), self.progress)
        if ended:
            self.log.close()
        return ended

    def lose_lease(self) -> None:
        """Make the lease run out now, as if this worker had been gone for its length."""
        end_lease(self.generation)


def end_lease(generation: Generation) -> None:
    """Make the lease of whoever holds this row run out now."""
    Generation.objects.filter(pk=generation.pk).update(lease_until="2020-01-01T00:00:00Z")
