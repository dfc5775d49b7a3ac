"""Measurements, each run with `python -m tests.bench.<case>`."""
