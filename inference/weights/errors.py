"""What the fetching modules share: their error, their progress callback and the check for space."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

# (phase, done_bytes, total_bytes); total_bytes is 0 while it is not known
Progress = Callable[[str, int, int], None]


class WeightsError(Exception):
    """The weights cannot be had; the message is one sentence for the operator."""


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise WeightsError unless the file system of `folder` has this much room."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise WeightsError(
            f"{folder} has {free_bytes / 1e9:.1f} GB free, and this model needs {needed_bytes / 1e9:.1f} GB: "
            "make room or set DATA_DIR to a larger disk."
        )
