"""Conversion of availability checks."""

from collections.abc import Sequence
from typing import Any

from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.charge_pb2 import Availability, LineAvailability

from contract.values import money_fields, money_from_proto
from kit import ids
from services.budgets import convert
from services.budgets.domain.postings import AvailabilityQuery, AvailabilityResult


def queries_from_proto(request: pb.CheckAvailabilityRequest) -> list[AvailabilityQuery]:
    """Return the charges that are checked, in order."""
    first = AvailabilityQuery(ids.BUDGET.parse(request.id), money_from_proto(request.amount))
    queries = [first]
    for index, line in enumerate(request.lines):
        field = f"lines[{index}].budget_id"
        budget_id = ids.BUDGET.parse(line.budget_id, field) if line.budget_id else first.budget_id
        queries.append(AvailabilityQuery(budget_id, money_from_proto(line.amount)))
    return queries


def to_proto(results: Sequence[AvailabilityResult]) -> Availability:
    """Return whether the first charge would be accepted, and those after it."""
    first = results[0].availability
    fields: dict[str, Any] = {
        "verdict": first.verdict,
        "binding_budget_id": ids.BUDGET.format_optional(first.binding),
        "explanation": first.explanation,
        "chain": convert.postings.chain_fields(first.before, first.after, first.hidden),
        "by_policy": [{"policy": policy, "verdict": verdict} for policy, verdict in first.by_policy.items()],
        "lines": map(line_to_proto, results[1:]),
    }
    return Availability(**fields)


def line_to_proto(result: AvailabilityResult) -> LineAvailability:
    """Return whether a further charge would be accepted."""
    availability, terms = result.availability, result.balance.terms
    fields: dict[str, Any] = {
        "budget_id": ids.BUDGET.format(terms.id),
        "amount": money_fields(result.amount.amount, result.amount.currency),
        "verdict": availability.verdict,
        "binding_budget_id": ids.BUDGET.format_optional(availability.binding),
        "explanation": availability.explanation,
        "chain": convert.postings.chain_fields(availability.before, availability.after, availability.hidden),
    }
    return LineAvailability(**fields)
