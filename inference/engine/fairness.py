"""Whose turn it is, by the service each has had: virtual token counters.

After "Fairness in Serving Large Language Models" (Sheng et al. 2024, arXiv 2401.00588), with one addition. There,
whoever comes anew starts at the least counter of those that wait; a constant stream of newcomers would then keep that
least where it is, and starve whoever has been served once. Here newcomers start at a clock that the service drives on.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Shares(Generic[Key]):
    """Service in tokens / weight of each key, and whose turn it is among the keys that wait.

    Invariants: a key that has not waited earns no credit by that; while a key waits, no more than a bounded service
    goes to others before its turn, however many others come.
    """

    def __init__(self, weights: Mapping[Key, float] | None = None) -> None:
        """A key without a weight has 1."""
        self._weights = dict(weights or {})
        self._counters: dict[Key, float] = {}
        self._waiting: dict[Key, None] = {}  # in the order in which they came, so that the first wins a tie
        self._waiting_weight = 0.0
        self._clock = 0.0

    def join(self, key: Key) -> None:
        """The key waits from now on. Idempotent; costs a look at each key that waits."""
        if key in self._waiting:
            return
        counters = [self._counters[other] for other in self._waiting]
        if counters:
            self._clock = max(min(self._clock, max(counters)), min(counters))
        counter = self._counters[key] = max(self._counters.get(key, 0.0), self._clock)
        if not counters:
            self._clock = counter
        self._waiting[key] = None
        self._waiting_weight += self._weight(key)

    def leave(self, key: Key) -> None:
        """Nothing of the key waits any more; its counter stays. Idempotent."""
        if key in self._waiting:
            del self._waiting[key]
            self._waiting_weight = self._waiting_weight - self._weight(key) if self._waiting else 0.0

    def forget(self, key: Key) -> None:
        """Drop the counter of a key that does not wait: it would come back as a new one."""
        self._counters.pop(key, None)

    def least(self) -> Key | None:
        """The waiting key with the least service; None where none waits."""
        return min(self._waiting, key=self._counters.__getitem__, default=None)

    def charge(self, key: Key, tokens: int) -> None:
        """The key is served. While it waits for more, this drives the clock: by its part among all that wait."""
        self._counters[key] = self._counters.get(key, 0.0) + tokens / self._weight(key)
        if key in self._waiting:
            self._clock += tokens / self._waiting_weight

    def refund(self, key: Key, tokens: int) -> None:
        """Take back a charge for tokens that are never served."""
        self._counters[key] -= tokens / self._weight(key)

    def _weight(self, key: Key) -> float:
        return self._weights.get(key, 1.0)
