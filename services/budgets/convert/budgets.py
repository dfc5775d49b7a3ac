"""Conversion of budgets."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget

from contract.masks import changed_fields
from contract.values import (
    date_from_text,
    enum_or_none,
    money_from_proto,
    money_or_none,
    money_to_proto,
    time_to_proto,
)
from kit import ids
from kit.errors import InvalidFields, Violation
from services.budgets.domain.budgets import (
    LATE_POSTING_DAYS_DEFAULT,
    THRESHOLDS_DEFAULT_BP,
    BudgetDraft,
    BudgetFilter,
    BudgetState,
    BudgetUpdate,
    OverspendPolicy,
    PeriodType,
    Rollover,
)
from services.budgets.models.budgets import BudgetRow

_NEVER_CLEARED: Final[Sequence[Literal["name", "overspend_policy", "amount", "rollover", "late_posting_days"]]] = (
    "name", "overspend_policy", "amount", "rollover", "late_posting_days",
)  # fmt: skip
_COPIED: Final = frozenset(
    {
        "name",
        "category",
        "gl_code",
        "tolerance_bp",
        "recurring",
        "carry_overspend",
        "late_posting_days",
        "covers_descendants",
    }
)
"""Fields of UpdateBudgetRequest that have the name, type and empty value of their column."""


def to_proto(row: BudgetRow) -> Budget:
    """Convert a budget with its balance."""
    balance = row.balance
    return Budget(
        id=ids.BUDGET.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        parent_id=ids.BUDGET.format_optional(row.parent_id),
        name=row.name,
        category=row.category,
        gl_code=row.gl_code,
        period_type=Budget.PeriodType.Value(row.period_type),
        period_start_date=row.period_start.isoformat(),
        period_end_date=row.period_end.isoformat(),
        time_zone=row.time_zone,
        amount=money_to_proto(balance.money(balance.amount)),
        carried=money_to_proto(balance.money(balance.carried)),
        spent=money_to_proto(balance.money(balance.spent)),
        held=money_to_proto(balance.money(balance.held)),
        committed=money_to_proto(balance.money(balance.committed)),
        captured=money_to_proto(balance.money(balance.captured)),
        available=money_to_proto(balance.money(balance.available)),
        utilisation_bp=balance.utilisation_bp,
        overspend_policy=Budget.OverspendPolicy.Value(row.overspend_policy),
        tolerance_bp=row.tolerance_bp,
        alert_thresholds_bp=row.alert_thresholds_bp,
        recurring=row.recurring,
        rollover=Budget.Rollover.Value(row.rollover),
        rollover_cap=None if row.rollover_cap is None else money_to_proto(balance.money(row.rollover_cap)),
        carry_overspend=row.carry_overspend,
        late_posting_days=row.late_posting_days,
        covers_descendants=row.covers_descendants,
        carried_forward=(None if row.carried_forward is None else money_to_proto(balance.money(row.carried_forward))),
        previous_id=ids.BUDGET.format_optional(row.previous_id),
        period_number=row.period_number,
        state=Budget.State.Value(row.state),
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def draft_from_proto(request: pb.CreateBudgetRequest) -> BudgetDraft:
    """Parse CreateBudgetRequest."""
    return BudgetDraft(
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        parent_id=ids.BUDGET.parse_optional(request.parent_id, "parent_id"),
        name=request.name,
        category=request.category,
        gl_code=request.gl_code,
        period_type=PeriodType(Budget.PeriodType.Name(request.period_type)),
        period_start=date_from_text(request.period_start_date),
        period_end=date_from_text(request.period_end_date),
        time_zone=request.time_zone,
        amount=money_from_proto(request.amount),
        overspend_policy=OverspendPolicy(
            Budget.OverspendPolicy.Name(request.overspend_policy or Budget.OverspendPolicy.BLOCK)
        ),
        tolerance_bp=request.tolerance_bp,
        alert_thresholds_bp=sorted(request.alert_thresholds_bp) or THRESHOLDS_DEFAULT_BP,
        recurring=request.recurring if request.HasField("recurring") else None,
        rollover=enum_or_none(Rollover, Budget.Rollover, request.rollover) or Rollover.NONE,
        rollover_cap=money_or_none(request, "rollover_cap"),
        carry_overspend=request.carry_overspend,
        late_posting_days=(
            request.late_posting_days if request.HasField("late_posting_days") else LATE_POSTING_DAYS_DEFAULT
        ),
        covers_descendants=request.covers_descendants,
        state=BudgetState.DRAFT if request.draft else BudgetState.ACTIVE,
    )


def filter_from_proto(request: pb.ListBudgetsRequest) -> BudgetFilter:
    """Return the filters of ListBudgetsRequest."""
    return BudgetFilter(
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        parent_id=ids.BUDGET.parse_optional(request.parent_id, "parent_id"),
        state=enum_or_none(BudgetState, Budget.State, request.state),
        period_date=date_from_text(request.period_date),
        utilisation_min_bp=request.utilisation_min_bp,
    )


def update_from_proto(request: pb.UpdateBudgetRequest) -> BudgetUpdate:
    """Parse UpdateBudgetRequest. Raises InvalidFields if a field is cleared that can't be."""
    fields = changed_fields(request)
    cleared = [field for field in _NEVER_CLEARED if field in fields and not request.HasField(field)]
    if cleared:
        raise InvalidFields([Violation(field, "can't be cleared", "required") for field in cleared])
    columns: dict[str, Any] = {field: getattr(request, field) for field in fields & _COPIED}
    if "overspend_policy" in fields:
        columns["overspend_policy"] = OverspendPolicy(Budget.OverspendPolicy.Name(request.overspend_policy))
    if "rollover" in fields:
        columns["rollover"] = Rollover(Budget.Rollover.Name(request.rollover))
    if "alert_thresholds_bp" in fields:
        columns["alert_thresholds_bp"] = sorted(request.alert_thresholds_bp)
    return BudgetUpdate(
        columns=columns,
        amount=money_or_none(request, "amount") if "amount" in fields else None,
        changes_cap="rollover_cap" in fields,
        rollover_cap=money_or_none(request, "rollover_cap"),
        reason=request.reason,
    )
