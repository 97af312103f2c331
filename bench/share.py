"""A shared page of 100 messages: the time that the server takes for it, from the first middleware to the last byte.

In this process, one page after another, with nothing of the network: what a web process spends on each reader.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

from django.test import Client
from django.utils import timezone

from accounts.models import User
from bench import report
from chat import cards, shares
from chat.copies import copy
from chat.snapshots import SharedMessage
from config import prepare

MESSAGES = 100
REPETITIONS = 50
PAGE_MOST_MS = 20.0
ANSWER = """The Moon pulls the **near** side of the sea more than the Earth's centre, and the centre more than the far
side.

1. One bulge points towards the Moon.
2. The other points away from it, as [tables of tides](https://example.org/tides) show.

```python
def tide(hour: float) -> float:
    return 1.2 * math.cos(2 * math.pi * hour / 12.42)
```

| coast | range |
|:--|--:|
| Bay of Fundy | 16 m |
| Mediterranean | 0.3 m |
"""


def measure() -> None:
    """Share, update, read, print. Blocks for some seconds."""
    prepare.static_files()
    owner = User.objects.create(kind=User.Kind.GUEST)
    messages = [
        SharedMessage("assistant", ANSWER, timezone.now(), model="bench")
        if number % 2
        else SharedMessage("user", "Why are there two tides each day, and not one?", timezone.now())
        for number in range(MESSAGES)
    ]
    conversation = copy(owner, title="Why are there two tides each day?", model="bench", messages=messages)
    share = shares.put(owner, conversation.pk, shares.Choice(), expires=None)
    client = Client(headers={"host": "127.0.0.1"})
    report.title(f"A shared page of {MESSAGES} messages")
    report.line("size of the page", f"{len(client.get(f'/s/{share.token}').content) / 1024:.0f} KB")
    pages = [_ms(lambda: client.get(f"/s/{share.token}")) for _ in range(REPETITIONS)]
    report.target("page, ms of server time", pages, most=PAGE_MOST_MS)
    made = [_ms(lambda: shares.update(owner, conversation.pk)) for _ in range(5)]
    report.line("sharing or updating it, ms", report.spread(made))
    drawn = [_ms(partial(cards.draw, f"{share.title} {number}", ("A model",))) for number in range(10)]
    report.line("drawing its card, ms", report.spread(drawn))


def _ms(action: Callable[[], object]) -> float:
    began = perf_counter()
    action()
    return (perf_counter() - began) * 1000
