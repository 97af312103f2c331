"""`python -m bench [PART]`: the benchmarks, or one part of them. Figures are told, nothing is asserted."""

from __future__ import annotations

import argparse
from importlib import import_module
from time import monotonic

from bench import place, report

PARTS = ("stack", "worker", "load", "share", "waits", "latency", "engine")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="all, if left out")
    parser.add_argument("--llama-python", metavar="PATH", help="an interpreter that has llama-cpp-python, for `engine`")
    parser.add_argument("--streams", metavar="N", type=int, help="for `engine`: as many at once, and no other number")
    asked = parser.parse_args()
    options = {"engine": {"llama_python": asked.llama_python, "only_streams": asked.streams}}
    report.machine()
    with place.ready():
        for part in (asked.part,) if asked.part else PARTS:
            began = monotonic()
            import_module(f"bench.{part}").measure(**options.get(part, {}))
            report.line(f"{part} took", f"{monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
