"""Clients that several services use: exchange rates, user management, forwarded errors. Never in a transaction."""
