"""Errors of the approvals service, one module per noun. Their reasons are documented in errors.proto."""
