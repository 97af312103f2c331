from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel, load
from inference.engine.requests import Handle
from inference.types import Delta, Finished


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # threads that meet after every operation crawl when the machine is busy


@pytest.fixture(scope="session")
def tiny(tiny_model_dir: Path) -> LoadedModel:
    return load(tiny_model_dir, device="cpu", dtype="float32")


@pytest.fixture
def engine(tiny: LoadedModel) -> Engine:
    """Not started: the test calls step() itself, so that nothing depends on time."""
    return Engine(tiny)


@pytest.fixture
def started(tiny: LoadedModel) -> Iterator[Callable[..., Engine]]:
    """Makes engines that run on their own thread, and closes them."""
    engines: list[Engine] = []

    def start(**options: float) -> Engine:
        engines.append(Engine(tiny, **options))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def finish(engine: Engine, handle: Handle) -> tuple[str, list[int], Finished]:
    """Step until all is done: the handle's text, token ids and end."""
    while engine.step():
        pass
    return collect(handle)


def collect(handle: Handle) -> tuple[str, list[int], Finished]:
    *deltas, end = list(handle)
    assert isinstance(end, Finished)
    assert all(isinstance(delta, Delta) for delta in deltas)
    return "".join(d.text for d in deltas), [i for d in deltas for i in d.token_ids], end
