"""Errors of the entities service, one module per noun; errors.proto documents each reason."""
