"""Serves and calls services: call pipeline, server, clients, pages, scopes, audit log, operations."""
