"""Which weights lie in a model's folder: a small JSON file that the fetching side writes and the loading side reads.

Torch-free, so that a web process may use it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FILE_NAME = "lambda_chat_source.json"


def write(directory: Path, *, source: str, revision: str) -> None:
    """Record where the weights in `directory` come from. `revision` names their bytes: a commit or a hash."""
    (directory / FILE_NAME).write_text(json.dumps({"source": source, "revision": revision}, indent=2) + "\n")


def read(directory: Path) -> str:
    """The recorded revision; for a folder that was put there by hand, one made of its configuration and file sizes."""
    try:
        return str(json.loads((directory / FILE_NAME).read_text())["revision"])
    except FileNotFoundError:
        return f"local-{_fingerprint(directory)}"


def source(directory: Path) -> str | None:
    """The source that the weights were fetched from, or None where nothing is recorded."""
    try:
        return str(json.loads((directory / FILE_NAME).read_text())["source"])
    except FileNotFoundError:
        return None


def _fingerprint(directory: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.json")):
        digest.update(file.name.encode() + file.read_bytes())
    for file in sorted(directory.glob("*.safetensors")):
        digest.update(f"{file.name}:{file.stat().st_size}".encode())
    return digest.hexdigest()[:12]
