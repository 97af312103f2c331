"""manage.py models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from inference.engine import revision
from inference.management.commands.models import Command
from tests.inference.declared import declare
from tests.inference.elsewhere.server import serving


@pytest.fixture
def declared_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """manage.py reads the catalog that the test writes."""
    monkeypatch.setattr(settings, "MODELS_FILE", tmp_path / "models.toml")
    monkeypatch.setattr(settings, "MODELS_DIR", tmp_path / "models")


@pytest.mark.usefixtures("declared_here")
def test_the_command_lists_pulls_and_checks(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(tmp_path, f"path:{tiny_model_dir}")
    call_command("models", "list")
    call_command("models", "pull")
    call_command("models", "check")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tiny", "ready", "Tiny,", "MIT,", "default"]
    found = revision.read(tiny_model_dir)
    assert lines[1:] == [f"tiny is ready, revision {found}.", f"tiny: ready, revision {found}."]


@pytest.mark.usefixtures("declared_here")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pull", "other"], "There is no model 'other'."),
        (["pull", "tiny"], "runs in an engine elsewhere"),
    ],
)
def test_the_command_answers_a_mistake_with_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    declare(tmp_path, "openai:http://127.0.0.1:8001/v1")
    with pytest.raises(CommandError, match=sentence):
        call_command("models", *arguments)


@pytest.mark.usefixtures("declared_here")
def test_the_check_tells_what_cannot_be_run(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(tmp_path, "hub:org/tiny@main")
    with pytest.raises(CommandError, match="1 of 1 models cannot be run"):
        call_command("models", "check")
    assert "tiny: not fetched;" in capsys.readouterr().out
    declare(tmp_path, f"path:{tiny_model_dir}")
    text = (tmp_path / "models.toml").read_text()
    (tmp_path / "models.toml").write_text(text.replace("1024", "9999"))
    with pytest.raises(CommandError, match="1 of 1 models cannot be run"):
        call_command("models", "check")
    assert "a context of 9999 tokens, but it has only 4096" in capsys.readouterr().out


@pytest.mark.usefixtures("declared_here")
def test_the_check_tells_which_models_are_read_one_request_at_a_time(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
    declare(tmp_path, f"path:{folder}")
    call_command("models", "check")
    sentence = "its requests are read one by one: its positions (dynamic) depend on the longest request."
    assert sentence in capsys.readouterr().out
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "unheard-of"}))
    with pytest.raises(CommandError, match="1 of 1 models cannot be run"):
        call_command("models", "check")
    assert "holds no model that transformers can build" in capsys.readouterr().out


@pytest.mark.usefixtures("declared_here")
def test_the_list_says_what_runs_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declare(tmp_path, "openai:http://127.0.0.1:8001/v1")
    call_command("models", "list")
    assert capsys.readouterr().out.split()[:2] == ["tiny", "elsewhere"]


@pytest.mark.usefixtures("declared_here")
def test_the_check_asks_an_engine_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        declare(tmp_path, f"openai:{server.url}")
        call_command("models", "check")
        assert (
            f"tiny: reachable, the engine elsewhere at {server.url} answers with org/large." in capsys.readouterr().out
        )
        server.context_length = 512
        with pytest.raises(CommandError, match="1 of 1 models cannot be run"):
            call_command("models", "check")
        assert f"a context of 1024 tokens, but the engine elsewhere at {server.url} has only 512" in _said(capsys)
        declare(tmp_path, f"openai:{server.url}#org/other")
        with pytest.raises(CommandError, match="1 of 1 models cannot be run"):
            call_command("models", "check")
        assert "answers, but not as it should: The server does not list org/other." in _said(capsys)


@pytest.mark.usefixtures("declared_here")
def test_an_engine_elsewhere_that_is_away_is_a_fault_of_the_default_model_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        url = server.url
    spec = declare(tmp_path, f"openai:{url}")
    assert Command()._state(spec)[0]
    fault, sentence = Command()._state(msgspec.structs.replace(spec, default=False))
    assert not fault
    assert f"the engine elsewhere at {url} is not reachable now" in sentence


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out
