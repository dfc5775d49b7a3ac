"""Shared parts of the tests: servers, databases, tokens, callers, observation of effects."""
