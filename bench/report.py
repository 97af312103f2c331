"""Printing: one line a figure, the median of its repetitions first, and its target beside it where there is one."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil

PACKAGES = ("torch", "transformers", "Django", "channels", "daphne", "celery", "redis", "psycopg")
WIDTH = 48


def machine() -> None:
    """What the figures were measured on."""
    load = ", ".join(f"{value:.2f}" for value in psutil.getloadavg())
    memory = psutil.virtual_memory().total / 2**30
    print(f"{_processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB; load average before: {load}")
    print(f"{platform.system()} {platform.release()}, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES), flush=True)


def title(text: str) -> None:
    print(f"\n{text}", flush=True)


def line(name: str, value: str) -> None:
    print(f"  {name:<{WIDTH}} {value}", flush=True)


def target(
    name: str, values: Sequence[float], *, least: float | None = None, most: float | None = None, digits: int = 1
) -> None:
    """A figure whose median should be at least or at most so much: told, never enforced."""
    middle = median(values)
    reached = middle >= least if least is not None else middle <= (most or 0.0)
    wanted = f"at least {least}" if least is not None else f"at most {most}"
    line(name, f"{spread(values, digits=digits)}   target {wanted}: {'reached' if reached else 'NOT reached'}")


def spread(values: Sequence[float], *, digits: int = 1, unit: str = "") -> str:
    """The median, and from where to where the repetitions went."""
    middle, low, high = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle}{unit}  ({low} to {high}, n={len(values)})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def memory(pids: Mapping[str, int]) -> None:
    """The resident memory of each named process."""
    title("Resident memory (MB)")
    for name, pid in pids.items():
        line(name, f"{psutil.Process(pid).memory_info().rss / 1e6:.0f}")


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.machine()
    names = (text.split(":", 1)[1].strip() for text in lines if text.startswith("model name"))
    return next(names, platform.machine())
