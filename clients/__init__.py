"""Clients that several services use: exchange rates, user management. Don't call them inside a transaction."""
