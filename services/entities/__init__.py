"""Entities and departments of a group."""
