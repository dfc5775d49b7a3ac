"""What a caller with a scope learns of budgets outside of it: that there is one above, and its verdict. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol
from uuid import UUID

from services.budgets.domain.balances import REFUSALS, Availability, Balance
from services.budgets.domain.entries import AvailabilityVerdict

IsVisible = Callable[[UUID], bool]
"""True if the caller may see the budget with this id."""


class Scope(Protocol):
    """The scope of a caller."""

    def covers(self, entity_id: UUID, department_id: UUID | None = None) -> bool:
        """True if it covers a row of this entity and department."""


def within(scope: Scope, tenant_id: UUID, balances: Mapping[tuple[UUID, UUID], Balance]) -> IsVisible:
    """Return whether the scope covers a budget; false for budgets that are not in `balances`."""

    def is_visible(budget_id: UUID) -> bool:
        balance = balances.get((tenant_id, budget_id))
        return balance is not None and scope.covers(balance.terms.entity_id, balance.terms.department_id)

    return is_visible


def conceal_availability(availability: Availability, is_visible: IsVisible) -> Availability:
    """Return the result; without name, id and numbers of budgets that the caller may not see."""
    hidden = frozenset(each.terms.id for each in availability.before if not is_visible(each.terms.id))
    availability = replace(availability, hidden=hidden)
    if availability.binding is None or is_visible(availability.binding):
        return availability
    return replace(availability, binding=None, by_policy={}, explanation=_EXPLANATIONS[availability.verdict])


_EXPLANATIONS: Final[Mapping[AvailabilityVerdict, str]] = {
    AvailabilityVerdict.AVAILABLE: "It would be accepted; a budget above leaves the least room.",
    AvailabilityVerdict.AVAILABLE_OVERSPENT: "It would be accepted and leave a budget above overspent.",
    **{verdict: refusal.above for refusal, verdict in REFUSALS.items()},
}
"""Texts for a binding budget that the caller may not see."""
