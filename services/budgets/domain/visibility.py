"""Visibility of budgets above for callers with a scope: outside of it they get only the verdict of a budget. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol
from uuid import UUID

from services.budgets.domain.balances import REFUSALS, Availability, Balance
from services.budgets.domain.entries import AvailabilityVerdict

IsVisible = Callable[[UUID], bool]
"""Predicate: the caller may see the budget with this id."""


class Scope(Protocol):
    """The scope of a caller."""

    def covers(self, entity_id: UUID, department_id: UUID | None = None) -> bool:
        """True if it covers a row of this entity and department."""


def within(scope: Scope, tenant_id: UUID, balances: Mapping[tuple[UUID, UUID], Balance]) -> IsVisible:
    """Return the predicate for the budgets in `balances`; it is false for all others."""

    def is_visible(budget_id: UUID) -> bool:
        balance = balances.get((tenant_id, budget_id))
        return balance is not None and scope.covers(balance.terms.entity_id, balance.terms.department_id)

    return is_visible


def conceal_availability(availability: Availability, is_visible: IsVisible) -> Availability:
    """Return the result without name, id and numbers of budgets that the caller may not see."""
    hidden = frozenset(each.terms.id for each in availability.before if not is_visible(each.terms.id))
    availability = replace(availability, hidden=hidden)
    if not is_visible(availability.explained):
        availability = replace(availability, explanation=_EXPLANATIONS[availability.verdict])
    if availability.binding is not None and not is_visible(availability.binding):
        availability = replace(availability, binding=None, by_policy={})
    return availability


_EXPLANATIONS: Final[Mapping[AvailabilityVerdict, str]] = {
    AvailabilityVerdict.AVAILABLE: "It would be accepted; a budget above leaves the least room.",
    AvailabilityVerdict.AVAILABLE_OVERSPENT: "It would be accepted and leave a budget above overspent.",
    **{verdict: refusal.concealed_message for refusal, verdict in REFUSALS.items()},
}
"""Explanations that name no budget, by verdict."""
