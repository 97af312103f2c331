"""The benchmarks of docs/benchmarks.md: `make bench`, or `python -m bench [stack|load]` for one part."""
