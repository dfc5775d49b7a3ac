"""Rows of the approvals service to messages, and requests to what the use cases take; the only files that know both."""
