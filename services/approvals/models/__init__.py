"""The tables of the schema `approvals`."""
