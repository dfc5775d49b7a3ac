"""Conversion between rows, domain values and protobuf messages of the approvals service."""

from services.approvals.convert import approvals, delegations, rules, submissions

__all__ = ["approvals", "delegations", "rules", "submissions"]
