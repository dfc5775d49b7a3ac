"""Every SQL statement of the approvals service."""
