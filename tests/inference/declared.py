"""A catalog of one model, written for a test."""

from __future__ import annotations

from pathlib import Path

from inference import catalog
from inference.catalog import ModelSpec

MODEL = """
[[model]]
slug = "tiny"
name = "Tiny"
maker = "Tests"
description = "A model."
licence = "MIT"
source = "{source}"
{more}
context_length = 1024
prices = {{ prompt = 0, cached_prompt = 0, completion = 0 }}
default = true
"""


def declare(folder: Path, source: str, more: str = "") -> ModelSpec:
    path = folder / "models.toml"
    path.write_text(MODEL.format(source=source, more=more))
    return catalog.load(path).default
