"""Every SQL statement of the approvals service."""

from services.approvals.store import approvals, delegations, rollovers, rules, submissions

__all__ = ["approvals", "delegations", "rollovers", "rules", "submissions"]
