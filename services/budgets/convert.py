"""Rows and values of the budgets service to messages and back; the only file that knows both."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from billing.budgets.v1 import alert_pb2, budget_pb2, budget_service_pb2, charge_pb2, entry_pb2

from contract.masks import changed_fields
from contract.values import date_from_text, money_from_proto, money_to_proto, time_from_proto, time_to_proto
from kit import ids
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.budgets import domain
from services.budgets.domain import Availability, Balance, Decision, OverspendPolicy, PeriodType, State
from services.budgets.models import AlertRow, BudgetRow, EntryRow
from services.budgets.service import BudgetDraft, ChargeDraft

_NEVER_CLEARED: Final[Sequence[Literal["name", "overspend_policy", "amount"]]] = ("name", "overspend_policy", "amount")
_AS_THEY_ARE = frozenset({"name", "category", "gl_code", "tolerance_bp"})


def budget_to_proto(row: BudgetRow) -> budget_pb2.Budget:
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
        amount=money_to_proto(balance.amount),
        spent=money_to_proto(balance.spent),
        available=money_to_proto(balance.available),
        utilisation_bp=balance.utilisation_bp,
        overspend_policy=budget_pb2.Budget.OverspendPolicy.Value(row.overspend_policy),
        tolerance_bp=row.tolerance_bp,
        alert_thresholds_bp=row.alert_thresholds_bp,
        state=budget_pb2.Budget.State.Value(row.state),
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def budget_draft_from_proto(request: budget_service_pb2.CreateBudgetRequest) -> BudgetDraft:
    """What CreateBudget asks for, with its defaults; raises InvalidFields for a period that is none."""
    period_type = PeriodType(budget_pb2.Budget.PeriodType.Name(request.period_type))
    period_start = date.fromisoformat(request.period_start_date)
    policy = request.overspend_policy or budget_pb2.Budget.BLOCK
    return BudgetDraft(
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
        parent_id=ids.BUDGET.parse_optional(request.parent_id, "parent_id"),
        name=request.name,
        category=request.category,
        gl_code=request.gl_code,
        period_type=period_type,
        period_start=period_start,
        period_end=_period_end(period_type, period_start, date_from_text(request.period_end_date)),
        time_zone=request.time_zone or "UTC",
        amount=money_from_proto(request.amount),
        overspend_policy=OverspendPolicy(budget_pb2.Budget.OverspendPolicy.Name(policy)),
        tolerance_bp=request.tolerance_bp,
        alert_thresholds_bp=_thresholds(request.alert_thresholds_bp) or domain.THRESHOLDS_DEFAULT_BP,
        state=State.DRAFT if request.draft else State.ACTIVE,
    )


def _period_end(period_type: PeriodType, start: date, end: date | None) -> date:
    if period_type is PeriodType.CUSTOM:
        if end is None or end <= start:
            raise _invalid(
                "period_end_date", "is required for CUSTOM and must be after period_start_date", "period.end"
            )
        return end
    computed = domain.period_end(period_type, start)
    if end not in {None, computed}:
        raise _invalid(
            "period_end_date", f"a {period_type} period from {start} ends before {computed}; leave it out", "period.end"
        )
    return computed


def _invalid(field: str, description: str, rule: str) -> InvalidFields:
    return InvalidFields([Violation(field, description, rule)])


def _thresholds(given: Iterable[int]) -> list[int]:
    return sorted(given)


def budget_changes_from_proto(
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
    if "alert_thresholds_bp" in fields:
        changes["alert_thresholds_bp"] = _thresholds(request.alert_thresholds_bp)
    return changes, money_from_proto(request.amount) if "amount" in fields else None


def charge_draft_from_proto(request: budget_service_pb2.ChargeRequest) -> ChargeDraft:
    """What Charge asks for."""
    return ChargeDraft(
        amount=money_from_proto(request.amount),
        request_id=request.request_id,
        description=request.description,
        reference=request.reference,
        charge_time=time_from_proto(request.charge_time) if request.HasField("charge_time") else None,
    )


def charge_to_proto(entry: EntryRow, decision: Decision) -> charge_pb2.Charge:
    """A charge that was just taken."""
    return _charge(entry, _chain(decision.before, decision.after))


def recorded_charge_to_proto(entry: EntryRow, names: Mapping[UUID, str]) -> charge_pb2.Charge:
    """A charge out of the ledger."""
    charged = Money(entry.amount, entry.currency_code)
    chain = []
    for budget_id, amount, spent in zip(entry.chain_ids, entry.chain_amounts, entry.chain_spent, strict=True):
        limit, after = Money(amount, entry.currency_code), Money(spent, entry.currency_code)
        available = limit - after
        chain.append(
            charge_pb2.ChainBudget(
                budget_id=ids.BUDGET.format(budget_id),
                name=names[budget_id],
                available_before=money_to_proto(available + charged),
                available_after=money_to_proto(available),
                utilisation_bp=after.utilisation_bp(limit),
                overspent=limit < after,
            )
        )
    return _charge(entry, chain)


def _charge(entry: EntryRow, chain: Iterable[charge_pb2.ChainBudget]) -> charge_pb2.Charge:
    if entry.verdict is None:
        raise ValueError(f"the entry {entry.id} is no charge")
    return charge_pb2.Charge(
        id=ids.ENTRY.format(entry.id),
        request_id=entry.request_id or "",
        budget_id=ids.BUDGET.format(entry.budget_id),
        amount=money_to_proto(Money(entry.amount, entry.currency_code)),
        verdict=charge_pb2.Charge.Verdict.Value(entry.verdict),
        chain=chain,
        description=entry.description,
        reference=entry.reference,
        actor=entry.actor,
        charge_time=time_to_proto(entry.charge_time),
        create_time=time_to_proto(entry.create_time),
    )


def availability_to_proto(availability: Availability) -> charge_pb2.Availability:
    """What a charge would meet."""
    return charge_pb2.Availability(
        verdict=charge_pb2.Availability.Verdict.Value(availability.verdict),
        binding_budget_id=ids.BUDGET.format(availability.binding),
        chain=_chain(availability.before, availability.after),
        explanation=availability.explanation,
    )


def _chain(before: Sequence[Balance], after: Sequence[Balance]) -> Iterable[charge_pb2.ChainBudget]:
    return (
        charge_pb2.ChainBudget(
            budget_id=ids.BUDGET.format(left.id),
            name=left.name,
            available_before=money_to_proto(had.available),
            available_after=money_to_proto(left.available),
            utilisation_bp=left.utilisation_bp,
            overspent=left.overspent,
        )
        for had, left in zip(before, after, strict=True)
    )


def alert_to_proto(row: AlertRow) -> alert_pb2.Alert:
    """An alert."""
    return alert_pb2.Alert(
        id=ids.ALERT.format(row.id),
        budget_id=ids.BUDGET.format(row.budget_id),
        alert_type=alert_pb2.Alert.Type.Value(row.alert_type),
        threshold_bp=row.threshold_bp,
        utilisation_bp=row.utilisation_bp,
        amount=money_to_proto(Money(row.amount, row.currency_code)),
        spent=money_to_proto(Money(row.spent, row.currency_code)),
        charge_id=ids.ENTRY.format_optional(row.charge_id),
        state=alert_pb2.Alert.State.Value(row.state),
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def entry_to_proto(row: EntryRow, budget_id: UUID) -> entry_pb2.Entry:
    """An entry of the ledger, as the budget sees it."""
    place = row.chain_ids.index(budget_id)
    return entry_pb2.Entry(
        id=ids.ENTRY.format(row.id),
        entry_type=entry_pb2.Entry.Type.Value(row.entry_type),
        budget_id=ids.BUDGET.format(row.budget_id),
        amount=money_to_proto(Money(row.amount, row.currency_code)),
        budget_amount_after=money_to_proto(Money(row.chain_amounts[place], row.currency_code)),
        spent_after=money_to_proto(Money(row.chain_spent[place], row.currency_code)),
        ledger_version=row.chain_versions[place],
        request_id=row.request_id or "",
        description=row.description,
        reference=row.reference,
        actor=row.actor,
        charge_time=time_to_proto(row.charge_time),
        create_time=time_to_proto(row.create_time),
    )


def verification_to_proto(budget: BudgetRow, spent: Decimal, entries: int) -> entry_pb2.BudgetVerification:
    """Whether the budget says what its ledger says."""
    return entry_pb2.BudgetVerification(
        budget_id=ids.BUDGET.format(budget.id),
        verified=budget.spent == spent and budget.ledger_version == entries,
        spent=money_to_proto(budget.balance.spent),
        spent_by_ledger=money_to_proto(Money(spent, budget.currency_code)),
        ledger_version=budget.ledger_version,
        entry_count=entries,
    )
