"""Conversion of unbudgeted spend."""

from collections.abc import Collection, Iterable, Iterator
from typing import Final
from uuid import UUID

from billing.budgets.v1 import budget_report_service_pb2 as pb
from billing.budgets.v1.unbudgeted_pb2 import UnbudgetedSpend

from contract.values import date_from_text, money_to_proto, time_to_proto
from kit import ids
from kit.money import Money
from services.budgets.domain.unbudgeted import UnbudgetedFilter
from services.budgets.models.unbudgeted import UnbudgetedRow

_CONCEALED: Final = "A budget above rejected it."
"""Text for callers who may not see the budget."""


def named_budgets(rows: Iterable[UnbudgetedRow]) -> Iterator[UUID | None]:
    """Yield the budgets that rejected the costs, and those in the texts: a budget above may have rejected the cost."""
    for row in rows:
        yield row.budget_id
        yield from ids.BUDGET.find_all(row.detail)


def to_proto(row: UnbudgetedRow, hidden: Collection[UUID] = ()) -> UnbudgetedSpend:
    """Convert an unbudgeted cost or a correction of it. The caller may not see `hidden` budgets."""
    concealed = bool(hidden) and not ids.BUDGET.find_all(row.detail).isdisjoint(hidden)
    return UnbudgetedSpend(
        allocation_id=ids.ALLOCATION.format(row.allocation_id),
        reversed_allocation_id=ids.ALLOCATION.format_optional(row.reversed_allocation_id),
        credited_allocation_id=ids.ALLOCATION.format_optional(row.credited_allocation_id),
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        category=row.category,
        gl_code=row.gl_code,
        amount=money_to_proto(Money(row.amount, row.currency_code)),
        allocation_date=row.allocation_date.isoformat(),
        reason=row.reason,
        detail=_CONCEALED if concealed else row.detail,
        budget_id="" if row.budget_id in hidden else ids.BUDGET.format_optional(row.budget_id),
        create_time=time_to_proto(row.create_time),
    )


def filter_from_proto(request: pb.ListUnbudgetedSpendRequest) -> UnbudgetedFilter:
    """Return the filters of ListUnbudgetedSpendRequest."""
    return UnbudgetedFilter(
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        category=request.category,
        reason=request.reason,
        start=date_from_text(request.start_date),
        end=date_from_text(request.end_date),
    )
