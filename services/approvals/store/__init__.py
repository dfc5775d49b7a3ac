"""Every SQL statement of the approvals service."""

from services.approvals.store import approvals, deactivated_users, delegations, rollovers, rules, submissions

__all__ = ["approvals", "deactivated_users", "delegations", "rollovers", "rules", "submissions"]
