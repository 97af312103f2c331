"""The benchmarks of docs/benchmarks.md: `make bench`, or `python -m bench [stack|worker|load]` for one part."""
