"""The benchmarks of docs/benchmarks.md: `make bench`, or `python -m bench PART` for one part."""
