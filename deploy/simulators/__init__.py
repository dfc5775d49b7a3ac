"""Minimal simulators of outside systems: their events and replies, to run everything on one machine."""
