"""Every SQL statement of the approvals service."""

from services.approvals.store import approvals, delegations, rules

__all__ = ["approvals", "delegations", "rules"]
