"""Benchmarks, run by `make bench`: cases compared with floors, in interleaved slices. See docs/benchmarks.md."""
