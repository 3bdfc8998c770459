"""Benchmarks: `make bench`. Each topic is a file here; `python -m benchmarks --help`."""
