"""Runs the suite: database roles and migrations, the local stack, and simulators of outside systems."""
