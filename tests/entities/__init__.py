"""The entities service: real servicer, real PostgreSQL."""
