"""How busy an engine is."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True, slots=True)
class Stats:
    """The engine's load: requests that run and wait, sampling speed of late, tokens since the start, and how much of
    the room for keys and values is held, from 0 to 1."""

    running: int
    waiting: int
    tokens_per_s: float
    tokens_total: int
    kv_share: float


class Rate:
    """Tokens per second of work, over the last seconds. add() is for the engine's thread, reading for any."""

    WINDOW_S = 10.0

    def __init__(self) -> None:
        self.total = 0
        self._steps: tuple[tuple[float, float, int], ...] = ()

    def add(self, tokens: int, *, began: float) -> None:
        """Count the tokens of a step that began at the monotonic time `began` and ends now."""
        now = monotonic()
        self.total += tokens
        recent = [step for step in self._steps if step[1] > now - self.WINDOW_S]
        self._steps = (*recent[-511:], (began, now, tokens))

    def per_second(self) -> float:
        """0.0 when nothing was sampled within the window."""
        recent = [step for step in self._steps if step[1] > monotonic() - self.WINDOW_S]
        seconds = sum(end - begin for begin, end, _ in recent)
        return sum(tokens for _, _, tokens in recent) / seconds if seconds else 0.0
