"""How far the loading of weights has come: transformers' own progress bars, listened to instead of shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

# Not each of ten thousand tensors is worth a word.
STEP = 0.01


@contextmanager
def told(tell: Callable[[float], None]) -> Iterator[None]:
    """Within it, `tell` is called with the share of a model's tensors that are loaded, up to 1. For one load at a time:
    the hook is the process's. Where transformers has no hook, nothing is told."""
    if not hasattr(logging, "set_tqdm_hook"):
        yield
        return
    before = logging.set_tqdm_hook(lambda factory, args, options: _listen(factory, args, options, tell))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _listen(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], tell: Any) -> Any:
    items = args[0] if args else options.get("iterable")
    if items is None or not isinstance(items, Sized) or not len(items):
        return factory(*args, **options)
    return _Counted(items, tell)


class _Counted:
    """An iterable in the place of a progress bar."""

    def __init__(self, items: Any, tell: Callable[[float], None]) -> None:
        self._items = items
        self._tell = tell

    def __iter__(self) -> Iterator[Any]:
        told = 0.0
        for done, item in enumerate(self._items, 1):
            yield item
            if done / len(self._items) >= min(1.0, told + STEP):
                told = done / len(self._items)
                self._tell(told)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """What else a bar can do: set a description, be closed."""
        return lambda *args, **options: None

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *error: object) -> None:
        return None
