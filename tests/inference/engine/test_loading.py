from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest
import torch

from inference.engine import revision
from inference.engine.engine import Engine
from inference.engine.loading import LoadedModel, LoadError, load
from inference.engine.prompts import build
from inference.types import FinishReason, Sampling, Turn
from tests.inference.engine.conftest import finish


def test_a_model_is_loaded_with_what_belongs_to_it(tiny: LoadedModel) -> None:
    assert (tiny.context_length, tiny.dtype, tiny.device.type) == (4096, torch.float32, "cpu")
    assert tiny.eos_ids == {tiny.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert len(tiny.template_hash) == 16
    assert tiny.revision.startswith("local-")


def test_auto_is_bfloat16_and_every_phase_is_told(tiny_model_dir: Path) -> None:
    told: list[tuple[str, float]] = []
    loaded = load(tiny_model_dir, context_length=512, on_progress=lambda phase, share: told.append((phase, share)))
    assert (loaded.dtype, loaded.context_length) == (torch.bfloat16, 512)
    assert list(dict.fromkeys(phase for phase, _ in told)) == ["tokenizer", "weights", "ready"]
    shares = [share for phase, share in told if phase == "weights"]
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert (shares[0], shares[-1], told[-1]) == (0.0, 1.0, ("ready", 1.0))


def test_every_end_token_of_the_generation_config_counts(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [7, 2]}))
    assert load(folder, device="cpu").eos_ids == {2, 7}


def test_the_recorded_revision_is_the_loaded_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    revision.write(folder, source="path:somewhere", revision="0123abcd")
    assert load(folder, device="cpu").revision == "0123abcd"
    assert revision.source(folder) == "path:somewhere"


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "holds no safetensors"),
        ("chat_template.jinja", "no chat template"),
    ],
)
def test_a_folder_without_a_needed_file_is_refused(
    tiny_model_dir: Path, tmp_path: Path, missing: str, sentence: str
) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    (folder / missing).unlink()
    with pytest.raises(LoadError, match=sentence):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"dtype": "int4"}, "dtype 'int4' is unknown"), ({"context_length": 5000}, "positions for 4096")],
)
def test_an_option_that_cannot_be_met_is_refused(tiny_model_dir: Path, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(LoadError, match=sentence):
        load(tiny_model_dir, device="cpu", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(tiny_model_dir: Path) -> None:
    with pytest.raises(LoadError, match="sees no GPU"):
        load(tiny_model_dir, device="cuda")


def test_the_engine_imports_neither_django_nor_redis_nor_celery() -> None:
    program = (
        "import sys, inference.engine.engine, inference.engine.prompts\n"
        "print([name for name in ('django', 'redis', 'celery', 'config', 'msgspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.default_model
def test_loading_the_default_model_is_quick_and_prints_nothing(default_model_dir: Path) -> None:
    program = "import sys; from pathlib import Path; from inference.engine.loading import load; load(Path(sys.argv[1]))"
    began = monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, default_model_dir], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert monotonic() - began < 30  # 4 s on an idle machine of two cores


@pytest.mark.default_model
def test_the_default_model_answers_a_question(default_model_dir: Path) -> None:
    loaded = load(default_model_dir, device="cpu")
    prompt = build(loaded, [Turn("user", "What is the capital of France?")], 40)
    engine = Engine(loaded)
    text, _, end = finish(engine, engine.submit(prompt.ids, Sampling(temperature=0, max_tokens=40)))
    assert "Paris" in text
    assert end.reason is FinishReason.STOP
    assert engine.stats().tokens_per_s > 0
