"""How long an engine elsewhere is waited for, and how often."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds.

    first_token_s: a queue at the server and a long prompt. idle_s: between two tokens. usage_s: from the reason of the
    end to the usage. close_s: from the end mark to the end of the stream. unreachable_s: between tries while there is
    no connection, as many more tries as entries. busy_s: in all, while the server asks to come again. accept_s: what a
    conversation waits that may have to lose turns, deaf to a stop; servers refuse for length before any token. poll_s:
    between two looks at what the server serves.
    """

    first_token_s: float = 300.0
    idle_s: float = 60.0
    usage_s: float = 2.0
    close_s: float = 0.2
    unreachable_s: tuple[float, ...] = (0.25, 0.5, 1.0)
    busy_s: float = 30.0
    accept_s: float = 3.0
    poll_s: float = 3.0


USUAL = Patience()
