"""The simulated outside systems: they say and answer what their protos promise."""
