"""The models that this installation declares: models.toml, read strictly.

A leaf: it imports neither Django nor torch. A mistake in the file is one sentence that names file, model and key.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

Text = Annotated[str, Meta(min_length=1, max_length=500)]
Delimiter = Annotated[str, Meta(pattern=r"^\S(.{0,62}\S)?\Z")]
Capability = Literal["chat", "code", "multilingual", "reasoning"]


class CatalogError(Exception):
    """The catalog cannot be read; the message is one sentence for the operator."""


class UnknownModel(KeyError):
    """No model has this slug."""

    def __init__(self, slug: str) -> None:
        super().__init__(slug)
        self.slug = slug

    def __str__(self) -> str:
        return f"There is no model {self.slug!r}."


class Table(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file: every key is known, nothing is changed after reading."""


class Prices(Table, frozen=True):
    """US dollars per million tokens."""

    prompt: Decimal
    cached_prompt: Decimal
    completion: Decimal


class Reasoning(Table, frozen=True):
    """How a model thinks aloud: in tags, between the two strings, or in harmony's channels, which have no strings."""

    format: Literal["tags", "harmony"] = "tags"
    open: Delimiter | None = None
    close: Delimiter | None = None


class SamplingDefaults(Table, frozen=True):
    """How the model's makers advise to sample. temperature 0 is greedy, top_k 0 and top_p 1 filter nothing, and a
    repetition_penalty above 1 keeps a small model from saying the same for ever."""

    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1000)] = 0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Meta(ge=1, le=2)] = 1.0
    max_tokens: Annotated[int, Meta(ge=1)] = 1024


class HubSource(Struct, frozen=True):
    """A repository of a model hub at a revision: a commit, a tag or a branch."""

    repository: str
    revision: str


class PypiSource(Struct, frozen=True):
    """A GGUF file inside a wheel."""

    package: str
    version: str
    file: str


class PathSource(Struct, frozen=True):
    """A folder on this machine, used where it is."""

    path: Path


class OpenAISource(Struct, frozen=True):
    """An engine that runs elsewhere and speaks the OpenAI API at `url`; `model` is its name there, "" for the first."""

    url: str
    model: str = ""


Source = HubSource | PypiSource | PathSource | OpenAISource


class ModelSpec(Table, frozen=True, kw_only=True):
    """One declared model. `source_text` is the source as written, `source` what it means.

    sha256 is that of the wheel of a pypi source; the other sources have none.
    """

    slug: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
    name: Text
    maker: Text
    description: Text
    licence: Text
    source_text: Text = msgspec.field(name="source")
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    context_length: Annotated[int, Meta(ge=256)]
    prices: Prices
    reasoning: Reasoning | None = None
    capabilities: tuple[Capability, ...] = ("chat",)
    sampling: SamplingDefaults = SamplingDefaults()
    default: bool = False

    @property
    def source(self) -> Source:
        """The parsed source; load() has seen that it parses."""
        return parse_source(self.source_text)

    @property
    def folder_name(self) -> str:
        """Where its weights lie under the models folder: another source is another folder, never a mixture of two."""
        return f"{self.slug}--{hashlib.sha256(self.source_text.encode()).hexdigest()[:8]}"


class Catalog:
    """The declared models in the order of the file. Exactly one is the default; no slug occurs twice."""

    def __init__(self, models: tuple[ModelSpec, ...]) -> None:
        self._models = {model.slug: model for model in models}
        self.default = next(model for model in models if model.default)

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, slug: str) -> ModelSpec:
        """The model with this slug. Raises UnknownModel."""
        try:
            return self._models[slug]
        except KeyError:
            raise UnknownModel(slug) from None


def load(path: Path) -> Catalog:
    """Read the catalog in `path`. A relative `path:` source is meant from the file's folder. Raises CatalogError."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise CatalogError(f"{path.name} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path.name} is not TOML: {error}.") from error
    if unknown := sorted(document.keys() - {"model"}):
        raise CatalogError(f"{path.name} has an unknown table {unknown[0]!r}; models are [[model]] tables.")
    tables = document.get("model")
    if not isinstance(tables, list) or not tables:
        raise CatalogError(f"{path.name} declares no model; it needs at least one [[model]] table.")
    models = tuple(_model(path, number, table) for number, table in enumerate(tables, start=1))
    _check_together(path, models)
    return Catalog(models)


def parse_source(text: str) -> Source:
    """What a source string means. Raises ValueError with a sentence."""
    kind, _, rest = text.partition(":")
    if kind == "hub" and (match := re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w./-]+)", rest)):
        return HubSource(match[1], match[2])
    if kind == "pypi" and (match := re.fullmatch(r"([\w.-]+)==([\w.+!-]+)#([\w./-]+\.gguf)", rest)):
        return PypiSource(match[1], match[2], match[3])
    if kind == "path" and rest:
        return PathSource(Path(rest))
    # No credentials: the catalog is shown and logged. `@` and `?` have no other place in such an address.
    if kind == "openai" and (match := re.fullmatch(r"(https?://[^\s/@?#]+(?:/[^\s@?#]*)?)(?:#(\S+))?", rest)):
        urlsplit(match[1]).port  # noqa: B018 - it raises ValueError for a port or an address that is none
        return OpenAISource(match[1].rstrip("/"), match[2] or "")
    raise ValueError(
        f"{text!r} is none of hub:org/name@revision, pypi:package==version#file.gguf, path:FOLDER and openai:URL#name"
    )


def _model(path: Path, number: int, table: object) -> ModelSpec:
    slug = table.get("slug") if isinstance(table, dict) else None
    where = f"{path.name}, model {slug!r}" if isinstance(slug, str) else f"{path.name}, model number {number}"
    try:
        model = msgspec.convert(table, ModelSpec)
    except msgspec.ValidationError as error:
        raise CatalogError(f"{where}: {_reworded(str(error))}.") from error
    try:
        source = model.source
    except ValueError as error:
        raise CatalogError(f"{where}: key 'source': {error}.") from error
    if isinstance(source, PypiSource) != (model.sha256 is not None):
        raise CatalogError(f"{where}: key 'sha256': it is required with a pypi source and belongs to no other.")
    if not all(price.is_finite() and price >= 0 for price in msgspec.structs.astuple(model.prices)):
        raise CatalogError(f"{where}: key 'prices': a price is no amount of at least 0.")
    if model.reasoning is not None and not _complete(model.reasoning):
        raise CatalogError(f"{where}: key 'reasoning': tags have open and close, and harmony has neither.")
    if model.sampling.max_tokens > model.context_length:
        raise CatalogError(f"{where}: key 'sampling.max_tokens': it is more than context_length.")
    if isinstance(source, PathSource) and not source.path.is_absolute():
        return msgspec.structs.replace(model, source_text=f"path:{(path.parent / source.path).resolve()}")
    return model


def _complete(reasoning: Reasoning) -> bool:
    has = {reasoning.open is not None, reasoning.close is not None}
    return has == {reasoning.format == "tags"}


def _reworded(message: str) -> str:
    """msgspec's message with the key in front: "Expected `int`, got `str` - at `$.context_length`"."""
    what, found, place = message.partition(" - at `$.")
    return f"key '{place.rstrip('`')}': {what}" if found else what


def _check_together(path: Path, models: tuple[ModelSpec, ...]) -> None:
    seen: set[str] = set()
    for model in models:
        if model.slug in seen:
            raise CatalogError(f"{path.name}, model {model.slug!r}: key 'slug': another model has it already.")
        seen.add(model.slug)
    defaults = [model.slug for model in models if model.default]
    if len(defaults) != 1:
        found = " and ".join(map(repr, defaults)) or "none"
        raise CatalogError(f"{path.name}: key 'default': exactly one model must have it, not {found}.")
