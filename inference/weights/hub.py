"""A model in a repository of a model hub: data files at one commit, never code or pickles.

HF_ENDPOINT and HF_TOKEN are read by the hub's own client.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from inference.catalog import HubSource
from inference.weights.errors import Progress, WeightsError, check_space

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt", "LICENSE*", "NOTICE*")
POLL_S = 0.5
CHUNK_BYTES = 1 << 22


def fetch(source: HubSource, partial: Path, progress: Progress) -> tuple[Path, str]:
    """The folder of the downloaded model within `partial`, and the commit. Whole files already there are kept."""
    # The hub's client takes a second to import, which only a pull should pay.
    import httpx2
    from huggingface_hub import errors, snapshot_download

    name = f"{source.repository}@{source.revision}"
    try:
        commit, files = _listing(source)
        total = sum(file.size or 0 for file in files)
        folder = partial / commit
        folder.mkdir(exist_ok=True)
        for half in folder.rglob("*.incomplete"):  # a killed pull's, which the client would leave and not go on with
            half.unlink()
        check_space(partial, total - _stored_bytes(folder))
        with _watched(folder, total, progress):
            snapshot_download(
                source.repository,
                revision=commit,
                local_dir=folder,
                allow_patterns=[file.rfilename for file in files],
            )
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise WeightsError(
            f"The hub has no repository {source.repository} for you: check its name, accept its licence there where "
            "it asks for that, and set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"The hub's repository {source.repository} has no revision {source.revision}.") from error
    except errors.OfflineModeIsEnabled as error:
        raise WeightsError(f"{name} cannot be fetched while HF_HUB_OFFLINE is set.") from error
    except errors.HfHubHTTPError as error:
        raise WeightsError(f"The hub refused {name} with status {error.response.status_code}; try again.") from error
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's, told by the caller
        raise WeightsError(f"The hub could not be reached to fetch {name}: check the network and try again.") from error
    _verify(folder, files, progress)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return folder, commit


def _listing(source: HubSource) -> tuple[str, list[RepoSibling]]:
    """The commit that the revision names now, and its files that are ours to fetch."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    info = HfApi().model_info(source.repository, revision=source.revision, files_metadata=True)
    # Top level only: repositories keep the same weights in other formats in folders.
    files = [
        file
        for file in info.siblings or []
        if "/" not in file.rfilename and any(fnmatch(file.rfilename, pattern) for pattern in PATTERNS)
    ]
    if info.sha is None or not any(file.rfilename.endswith(".safetensors") for file in files):
        raise WeightsError(f"The hub's repository {source.repository} holds no safetensors; nothing else is loaded.")
    return info.sha, files


@contextmanager
def _watched(folder: Path, total: int, progress: Progress) -> Iterator[None]:
    """Report the growth of `folder` while the block runs: the client downloads on threads of its own."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(POLL_S):
            progress("downloading", min(_stored_bytes(folder), total), total)

    progress("downloading", min(_stored_bytes(folder), total), total)
    reporter = threading.Thread(target=report, name="pull-progress", daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def _stored_bytes(folder: Path) -> int:
    """The bytes in `folder`, unfinished files included; a file that vanishes meanwhile counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _verify(folder: Path, files: list[RepoSibling], progress: Progress) -> None:
    """Compare each large file with the sha256 that the hub lists for it."""
    for file in files:
        if file.lfs is None:
            continue
        digest, done, total = hashlib.sha256(), 0, file.size or 0
        with (folder / file.rfilename).open("rb") as opened:
            while block := opened.read(CHUNK_BYTES):
                digest.update(block)
                progress("verifying", done := done + len(block), total)
        if digest.hexdigest() != file.lfs.sha256:
            (folder / file.rfilename).unlink()
            raise WeightsError(f"{file.rfilename} does not have the sha256 that the hub lists; pull again.")
