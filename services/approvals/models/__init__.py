"""The tables of the schema `approvals`."""

from services.approvals.models import approvals, delegations, rules, workflows

__all__ = ["approvals", "delegations", "rules", "workflows"]
