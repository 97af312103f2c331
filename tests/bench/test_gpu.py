"""The GPU's benchmark runs where there is none, with tiny shapes, from the few files that it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_it_measures_both_models_with_nothing_of_the_project_but_the_engine(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bench", tmp_path / "bench")
    shutil.copytree(ROOT / "inference" / "engine", tmp_path / "inference" / "engine")
    for name in ("__init__.py", "types.py"):
        shutil.copy(ROOT / "inference" / name, tmp_path / "inference" / name)
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--tiny", "--device", "cpu"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    lines = [line.strip() for line in done.stdout.splitlines()]
    for beginning, count in {
        "qwen3-8b (tiny)": 1,
        "qwen3-30b-a3b (tiny)": 1,
        "decoding, 1 streams": 2,
        "decoding, 4 streams": 2,
        "prefill, 200 tokens": 2,
        "ours / generate": 2,
        "ours / continuous batching": 2,
        "waits for the device": 2,
    }.items():
        assert sum(line.startswith(beginning) for line in lines) == count, beginning
