"""Budgets to messages, and requests to what the use cases take."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from billing.budgets.v1 import budget_pb2, budget_service_pb2, entry_pb2

from contract.masks import changed_fields
from contract.values import date_from_text, money_from_proto, money_to_proto, time_to_proto
from kit import clock, ids
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.budgets import domain
from services.budgets.domain.alerts import THRESHOLDS_DEFAULT_BP
from services.budgets.domain.budgets import BudgetDraft, BudgetState, OverspendPolicy, PeriodType, Rollover
from services.budgets.domain.entries import LedgerSums
from services.budgets.models.budgets import BudgetRow

_NEVER_CLEARED: Final[Sequence[Literal["name", "overspend_policy", "amount", "rollover"]]] = (
    "name", "overspend_policy", "amount", "rollover",
)  # fmt: skip
_AS_THEY_ARE = frozenset({"name", "category", "gl_code", "tolerance_bp", "recurring", "carry_overspend"})


def to_proto(row: BudgetRow) -> budget_pb2.Budget:
    """A budget with its balances."""
    balance = row.balance
    return budget_pb2.Budget(
        id=ids.BUDGET.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        parent_id=ids.BUDGET.format_optional(row.parent_id),
        name=row.name,
        category=row.category,
        gl_code=row.gl_code,
        period_type=budget_pb2.Budget.PeriodType.Value(row.period_type),
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
        overspend_policy=budget_pb2.Budget.OverspendPolicy.Value(row.overspend_policy),
        tolerance_bp=row.tolerance_bp,
        alert_thresholds_bp=row.alert_thresholds_bp,
        recurring=row.recurring,
        rollover=budget_pb2.Budget.Rollover.Value(row.rollover),
        rollover_cap=None if row.rollover_cap is None else money_to_proto(balance.money(row.rollover_cap)),
        carry_overspend=row.carry_overspend,
        previous_id=ids.BUDGET.format_optional(row.previous_id),
        period_number=row.period_number,
        state=budget_pb2.Budget.State.Value(row.state),
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def draft_from_proto(request: budget_service_pb2.CreateBudgetRequest, fiscal_year_start_month: int) -> BudgetDraft:
    """What CreateBudget asks for, with its defaults; raises InvalidFields for a period that is none."""
    period_type = PeriodType(budget_pb2.Budget.PeriodType.Name(request.period_type))
    period_start = _period_start(request, period_type, fiscal_year_start_month)
    period_end = _period_end(period_type, period_start, date_from_text(request.period_end_date))
    policy = request.overspend_policy or budget_pb2.Budget.BLOCK
    rollover = Rollover(budget_pb2.Budget.Rollover.Name(request.rollover or budget_pb2.Budget.NONE))
    cap = money_from_proto(request.rollover_cap) if request.HasField("rollover_cap") else None
    _check_cap(rollover, cap, request.amount.currency_code)
    return BudgetDraft(
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        parent_id=ids.BUDGET.parse_optional(request.parent_id, "parent_id"),
        name=request.name,
        category=request.category,
        gl_code=request.gl_code,
        period_type=period_type,
        period_start=period_start,
        period_end=period_end,
        time_zone=request.time_zone or "UTC",
        amount=money_from_proto(request.amount),
        overspend_policy=OverspendPolicy(budget_pb2.Budget.OverspendPolicy.Name(policy)),
        tolerance_bp=request.tolerance_bp,
        alert_thresholds_bp=_thresholds(request.alert_thresholds_bp) or THRESHOLDS_DEFAULT_BP,
        recurring=_recurring(request, period_type, period_end),
        rollover=rollover,
        rollover_cap=cap,
        carry_overspend=request.carry_overspend,
        state=BudgetState.DRAFT if request.draft else BudgetState.ACTIVE,
    )


def _period_start(
    request: budget_service_pb2.CreateBudgetRequest, period_type: PeriodType, fiscal_year_start_month: int
) -> date:
    """The first day given, or else that of the fiscal period in which today is."""
    given = date_from_text(request.period_start_date)
    if given is None and period_type is PeriodType.CUSTOM:
        raise _invalid("period_start_date", "is required for CUSTOM", "required")
    today = clock.now().astimezone(ZoneInfo(request.time_zone or "UTC")).date()
    return given or domain.periods.fiscal_start(period_type, fiscal_year_start_month or 1, today)


def _recurring(request: budget_service_pb2.CreateBudgetRequest, period_type: PeriodType, period_end: date) -> bool:
    custom = period_type is PeriodType.CUSTOM
    if custom and request.recurring:
        raise _invalid("recurring", "a CUSTOM period has no next one", "recurring.custom")
    over = period_end <= clock.now().date()  # who opens a budget for the past wants to book into it, not the next one
    return request.recurring if request.HasField("recurring") else not (custom or over)


def _check_cap(rollover: Rollover, cap: Money | None, currency: str) -> None:
    if (rollover is Rollover.CAPPED) != (cap is not None):
        raise _invalid("rollover_cap", "is required for the rollover CAPPED, and for nothing else", "rollover.cap")
    if cap and cap.currency != currency:
        raise _invalid("rollover_cap", f"must be in the budget's currency, {currency}", "rollover.cap")


def _period_end(period_type: PeriodType, start: date, end: date | None) -> date:
    if period_type is PeriodType.CUSTOM:
        if end is None or end <= start:
            raise _invalid(
                "period_end_date", "is required for CUSTOM and must be after period_start_date", "period.end"
            )
        return end
    computed = domain.periods.period_of(period_type, start, 0).end
    if end not in {None, computed}:
        raise _invalid(
            "period_end_date", f"a {period_type} period from {start} ends before {computed}; leave it out", "period.end"
        )
    return computed


def _invalid(field: str, description: str, rule: str) -> InvalidFields:
    return InvalidFields([Violation(field, description, rule)])


def _thresholds(given: Iterable[int]) -> list[int]:
    return sorted(given)


def changes_from_proto(
    request: budget_service_pb2.UpdateBudgetRequest,
) -> tuple[Mapping[str, Any], Money | None]:
    """The columns that UpdateBudget changes, and the new amount if there is one."""
    fields = changed_fields(request)
    cleared = [field for field in _NEVER_CLEARED if field in fields and not request.HasField(field)]
    if cleared:
        raise InvalidFields([Violation(field, "can't be cleared", "required") for field in cleared])
    changes: dict[str, Any] = {field: getattr(request, field) for field in fields & _AS_THEY_ARE}
    if "overspend_policy" in fields:
        changes["overspend_policy"] = OverspendPolicy(budget_pb2.Budget.OverspendPolicy.Name(request.overspend_policy))
    if "rollover" in fields:
        changes["rollover"] = Rollover(budget_pb2.Budget.Rollover.Name(request.rollover))
    if "rollover_cap" in fields:
        cap = request.HasField("rollover_cap")
        changes["rollover_cap"] = money_from_proto(request.rollover_cap) if cap else None
    if "alert_thresholds_bp" in fields:
        changes["alert_thresholds_bp"] = _thresholds(request.alert_thresholds_bp)
    return changes, money_from_proto(request.amount) if "amount" in fields else None


def verification_to_proto(row: BudgetRow, sums: LedgerSums) -> entry_pb2.BudgetVerification:
    """Whether the budget says what its ledger says."""
    balance = row.balance
    total = balance.total if sums.opening is None else sums.opening + sums.amount
    said = balance.total, balance.spent, balance.held, balance.committed, balance.captured, balance.version
    ledger = total, sums.spent, sums.held, sums.committed, sums.captured, sums.entries
    aside = balance.held + balance.committed
    return entry_pb2.BudgetVerification(
        budget_id=ids.BUDGET.format(row.id),
        verified=said == ledger and aside == sums.open_holds,
        spent=money_to_proto(balance.money(balance.spent)),
        spent_by_ledger=money_to_proto(balance.money(sums.spent)),
        held=money_to_proto(balance.money(balance.held)),
        held_by_ledger=money_to_proto(balance.money(sums.held)),
        committed=money_to_proto(balance.money(balance.committed)),
        committed_by_ledger=money_to_proto(balance.money(sums.committed)),
        captured=money_to_proto(balance.money(balance.captured)),
        captured_by_ledger=money_to_proto(balance.money(sums.captured)),
        open_holds=money_to_proto(balance.money(sums.open_holds)),
        budget_amount=money_to_proto(balance.money(balance.total)),
        budget_amount_by_ledger=money_to_proto(balance.money(total)),
        ledger_version=row.ledger_version,
        entry_count=sums.entries,
    )
