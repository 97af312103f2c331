"""Helper: stands in for a worker with many answers at once, and writes to the token log what a worker would.

It makes a guest with a session and a claimed generation for each stream and tells their cookies and ids; on the first
question it begins to emit. It ends with the moment of each delta: milliseconds of the machine's monotonic clock, for
each stream from its first event on.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field

from bench import visitor
from bench.lines import answer, questions
from inference.availability import catalog
from inference.models import Generation, Outcome, Progress
from inference.stream import TokenLog
from inference.types import FinishReason, Turn

WORKER = "bench-emitter"
PERSIST_S = 1.0
# As long as the tokens of English text are.
PIECES = (" the", " sea", "ing", " was", " old", "ed", " and", " it")


@dataclass
class Stream:
    """One answer in the making."""

    cookie: str
    generation: Generation
    log: TokenLog
    text: str = ""
    emitted_ms: list[float] = field(default_factory=list)

    def emit(self, piece: str) -> None:
        self.emitted_ms.append(time.monotonic() * 1000)
        self.log.append(piece, [self.log.seq])
        self.text += piece

    def progress(self) -> Progress:
        tokens = self.log.seq
        return Progress(self.text, "", token_ids=range(tokens), tokens=tokens, reasoning_tokens=0, seq=tokens)


def main(count: str, rate: str, seconds: str) -> None:
    streams = [begin() for _ in range(int(count))]
    answer([{"cookie": stream.cookie, "generation": str(stream.generation.pk)} for stream in streams])
    ended = threading.Event()
    keeper = threading.Thread(target=keep, args=[streams, ended], daemon=True)
    keeper.start()
    next(questions())
    emit(streams, float(rate), float(seconds))
    ended.set()
    keeper.join()
    for stream in streams:
        stream.generation.finish(Outcome(Generation.State.DONE, FinishReason.STOP), stream.progress())
        stream.log.close()
    answer([{"emitted_ms": stream.emitted_ms, "characters": len(stream.text)} for stream in streams])


def begin() -> Stream:
    """A guest's generation, queued and claimed; its log is open."""
    guest = visitor.new()
    spec = catalog().default
    queued = Generation.objects.create(
        owner=guest.owner,
        door=Generation.Door.CHAT,
        model=spec.slug,
        prompt=[asdict(Turn("user", "Tell me a story."))],
        sampling={},
        idempotency_key=uuid.uuid4(),
        request_hash=b"",
    )
    generation = Generation.objects.claim(WORKER, model=queued.model, door=queued.door)
    assert generation is not None
    log = TokenLog(generation.pk, generation.epoch)
    log.open(prompt_tokens=8, dropped_messages=0)
    return Stream(guest.cookie, generation, log)


def emit(streams: list[Stream], rate: float, seconds: float) -> None:
    """Deltas evenly spread over time, one stream after the other: the dearest case for the web process, which then
    finds the fewest in each of its reads."""
    turns = zip(itertools.cycle(streams), itertools.cycle(PIECES), range(int(len(streams) * rate * seconds)))
    started = time.monotonic()
    for stream, piece, number in turns:
        due = started + number / (len(streams) * rate)
        time.sleep(max(0.0, due - time.monotonic()))
        stream.emit(piece)


def keep(streams: list[Stream], ended: threading.Event) -> None:
    """Save each stream and renew its lease once a second."""
    for stream in itertools.cycle(streams):
        if ended.wait(PERSIST_S / len(streams)):
            return
        Generation.objects.persist(WORKER, [(stream.generation, stream.progress())])
