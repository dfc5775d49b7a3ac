"""How a service is served and called: call pipeline, server, clients, pages, scopes, audit log, operations."""
