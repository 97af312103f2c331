"""`python -m bench [stack|worker|load]`: the benchmarks, or one part of them. Figures are told, nothing is asserted."""

from __future__ import annotations

import argparse
from importlib import import_module

from bench import place, report

PARTS = ("stack", "worker", "load")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="all, if left out")
    part = parser.parse_args().part
    chosen = (part,) if part else PARTS
    report.machine()
    with place.ready():
        for part in chosen:
            import_module(f"bench.{part}").measure()


if __name__ == "__main__":
    main()
