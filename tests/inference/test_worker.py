from __future__ import annotations

from pathlib import Path

from inference import worker
from inference.catalog import load
from inference.types import Reasoning, ReasoningFormat

ROOT = Path(__file__).resolve().parents[2]


def test_what_the_catalog_says_of_reasoning_reaches_the_engine() -> None:
    catalog = load(ROOT / "models.toml")
    found = {slug: worker._reasoning(catalog.get(slug)) for slug in ("qwen3-8b", "gpt-oss-20b", "gemma-3-4b-it")}
    assert found == {
        "qwen3-8b": Reasoning(ReasoningFormat.TAGS, open="<think>", close="</think>"),
        "gpt-oss-20b": Reasoning(ReasoningFormat.HARMONY),
        "gemma-3-4b-it": None,
    }
