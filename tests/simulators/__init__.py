"""Tests of the simulators of outside systems: they follow the protos of these systems."""
