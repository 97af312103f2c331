"""An engine elsewhere that we did not write: transformers' own server, with the tiny model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from config.embedded import die_with_parent
from inference.elsewhere.model import RemoteModel
from inference.types import FinishReason, Sampling, Turn
from tests.inference.elsewhere.conftest import QUICK, Asking, declared
from tests.ports import free_port
from tests.stack import wait_until
from tests.tiny.replies import COUNT, EMOJI, HELLO, REPLIES, STORY

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def served(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """The server lists what lies in a hub's cache, so the model lies in one."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / COMMIT).symlink_to(tiny_model_dir)
    port = free_port()
    arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    process = subprocess.Popen(
        [sys.executable, "-m", "transformers.cli.transformers", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    url = f"http://127.0.0.1:{port}/v1"
    wait_until(lambda: process.poll() is not None or _answers(url), "the server", 120)
    model = RemoteModel(declared(f"openai:{url}#org/tiny", 2048), api_key="", connections=4, patience=QUICK)
    model.start(lambda urgent: None)
    yield Asking(model)
    model.close()
    process.kill()
    process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("question", [HELLO, STORY, EMOJI])
def test_its_answers_arrive_to_the_last_character_with_its_count_of_tokens(served: Asking, question: str) -> None:
    told = served.ask([Turn("user", question)], Sampling(temperature=0, max_tokens=200))
    assert told.text == REPLIES[question]
    assert told.end is not None
    assert told.end.reason is FinishReason.STOP
    assert told.end.prompt_tokens is not None
    assert told.end.prompt_tokens > 5
    assert told.end.completion_tokens is not None
    assert told.end.completion_tokens > told.tokens  # it sends whole characters and counts the end token


def test_its_answers_end_at_the_limit(served: Asking) -> None:
    told = served.ask([Turn("user", STORY)], Sampling(temperature=0, max_tokens=5))
    assert told.end is not None
    assert (told.end.reason, told.end.completion_tokens) == (FinishReason.LENGTH, 5)


def test_a_stopped_answer_leaves_it_free_for_the_next(served: Asking) -> None:
    told = served.begin([Turn("user", COUNT)], Sampling(temperature=0, max_tokens=1500)).until(3)
    told.handle.cancel()
    assert told.rest().end is not None
    assert served.ask([Turn("user", HELLO)], Sampling(temperature=0, max_tokens=50)).text == REPLIES[HELLO]


def test_a_parameter_that_it_does_not_know_is_refused_with_words(served: Asking) -> None:
    end = served.ask([Turn("user", HELLO)], Sampling(top_k=5, max_tokens=5)).end
    assert end is not None
    assert end.code == "model_refused"
