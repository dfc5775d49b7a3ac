"""The local stack: all processes on this machine, with PostgreSQL and NATS from pip wheels."""
