"""Measurements, run by `make bench`: cases against floors, in slices that take turns. docs/operations.md tells how."""
