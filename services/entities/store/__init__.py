"""Every SQL statement of the entities service."""
