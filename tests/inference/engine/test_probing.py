"""What a config.json alone tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from inference.engine.placing import LoadError
from inference.engine.probing import obstacle
from tests.inference.engine.test_architectures import PACKED, SEPARATE, SIZES


def _write(folder: Path, kind: str, **fields: Any) -> Path:
    AutoConfig.for_model(kind, **{**SIZES, **fields}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [*PACKED])
def test_what_can_be_read_together_is_known_without_weights(kind: str, tmp_path: Path) -> None:
    assert obstacle(_write(tmp_path, kind, **PACKED[kind])) is None


def test_a_model_with_another_state_is_known_without_weights(tmp_path: Path) -> None:
    reason = obstacle(_write(tmp_path, "qwen3_next", **SEPARATE["qwen3_next"]))
    assert reason == "some of its layers (linear_attention) are not attention over all or a window"


def test_positions_that_depend_on_neighbours_are_known_without_weights(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    reason = obstacle(_write(tmp_path, "llama", rope_parameters=rope))
    assert reason == "its positions (dynamic) depend on the longest request"


def test_the_real_size_of_a_model_takes_no_memory(tmp_path: Path) -> None:
    """671 billion weights."""
    AutoConfig.for_model("deepseek_v3").save_pretrained(tmp_path)
    assert obstacle(tmp_path) is None


def test_an_architecture_that_transformers_does_not_know_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(LoadError, match="no model that transformers can build"):
        obstacle(tmp_path)
