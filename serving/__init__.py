"""How a service is served and called: the way of every call, server, clients, pages, scopes, operations."""
