"""Budgets themselves: opened, changed, activated, closed."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, dates, ids
from kit.db import WriteSession
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.budgets import domain, events, service, store
from services.budgets.domain.budgets import (
    DEPTH_MAX,
    FORECAST_TIMER,
    PERIOD_END_TIMER,
    BudgetAction,
    BudgetDraft,
    BudgetState,
    PeriodType,
    Rollover,
)
from services.budgets.domain.entries import EntryType
from services.budgets.domain.owners import Owner
from services.budgets.errors.budgets import (
    AmountBelowSpent,
    BudgetTreeTooDeep,
    CurrencyMismatch,
    OwnerInactive,
    OwnerNotFound,
    PeriodOutsideParent,
)
from services.budgets.models.budgets import BudgetRow


async def create(tx: WriteSession, draft: BudgetDraft, owner: Owner) -> BudgetRow:
    """Create a budget whose owner was found to be active, and was not retired since."""
    domain.owners.check_may_own(owner)
    if tx.scope and not tx.scope.covers(draft.entity_id, draft.department_id):
        raise OwnerNotFound(f"entity {ids.ENTITY.format(draft.entity_id)}")
    await _check_not_retired(tx, draft.entity_id)
    parent = await store.budgets.lock_shared(tx, draft.parent_id) if draft.parent_id else None
    if parent:
        _check_fits_below(parent, draft)
    budget = BudgetRow(
        entity_id=draft.entity_id,
        department_id=draft.department_id,
        parent_id=draft.parent_id,
        ancestor_ids=[parent.id, *parent.ancestor_ids] if parent else [],
        name=draft.name,
        category=draft.category,
        gl_code=draft.gl_code,
        period_type=draft.period_type,
        period_start=draft.period_start,
        period_end=draft.period_end,
        period_start_time=dates.day_start(draft.period_start, draft.time_zone),
        period_end_time=dates.day_start(draft.period_end, draft.time_zone),
        time_zone=draft.time_zone,
        anchor_date=draft.period_start,
        recurring=draft.recurring,
        rollover=draft.rollover,
        rollover_cap=draft.rollover_cap.amount if draft.rollover_cap else None,
        carry_overspend=draft.carry_overspend,
        currency_code=draft.amount.currency,
        amount=draft.amount.amount,
        overspend_policy=draft.overspend_policy,
        tolerance_bp=draft.tolerance_bp,
        alert_thresholds_bp=list(draft.alert_thresholds_bp),
        state=draft.state,
    )
    tx.add(budget)
    await tx.flush()
    await set_timers(tx, budget)
    return budget


async def set_timers(tx: WriteSession, budget: BudgetRow) -> None:
    """Have the clock do to a budget what it does in its state; to be called wherever that has changed."""
    await set_period_end_timer(tx, budget)
    await set_forecast_timer(tx, budget)


async def set_forecast_timer(tx: WriteSession, budget: BudgetRow) -> None:
    """Have the forecast of an active budget looked at on the next day of its period, if there is one; otherwise not."""
    due_time = _next_forecast(budget)
    if budget.state is BudgetState.ACTIVE and due_time < budget.period_end_time:
        set_timer(tx, FORECAST_TIMER, budget.id, due_time)
    else:
        cancel_timer(tx, FORECAST_TIMER, budget.id)


def _next_forecast(budget: BudgetRow) -> datetime:
    """A moment of the first hour of the next day, or of the second of the period; not the same one for all budgets."""
    today = clock.now().astimezone(ZoneInfo(budget.time_zone)).date()
    day = max(today, budget.period_start) + timedelta(days=1)
    return dates.day_start(day, budget.time_zone) + timedelta(seconds=60 + budget.id.int % 3000)


async def set_period_end_timer(tx: WriteSession, budget: BudgetRow) -> None:
    """Have the next period opened when this one ends, if the budget is active and recurs; otherwise not."""
    if budget.recurring and budget.state is BudgetState.ACTIVE:
        set_timer(tx, PERIOD_END_TIMER, budget.id, budget.period_end_time)
    else:
        cancel_timer(tx, PERIOD_END_TIMER, budget.id)


async def _check_not_retired(tx: WriteSession, entity_id: UUID) -> None:
    if (await store.owners.lock_shared(tx, entity_id)).retired:
        raise OwnerInactive(f"The entity {ids.ENTITY.format(entity_id)}")


def _check_fits_below(parent: BudgetRow, draft: BudgetDraft) -> None:
    domain.budgets.advance(parent.id, parent.state, BudgetAction.ADOPT)
    if len(parent.ancestor_ids) + 2 > DEPTH_MAX:
        raise BudgetTreeTooDeep(DEPTH_MAX)
    if parent.currency_code != draft.amount.currency:
        raise CurrencyMismatch(parent.id, given=draft.amount.currency, currency=parent.currency_code)
    starts = dates.day_start(draft.period_start, draft.time_zone)
    ends = dates.day_start(draft.period_end, draft.time_zone)
    if starts < parent.period_start_time or parent.period_end_time < ends:
        raise PeriodOutsideParent(parent.id, start=parent.period_start, end=parent.period_end)


async def update(
    tx: WriteSession,
    budget_id: UUID,
    changes: Mapping[str, Any],
    *,
    amount: Money | None,
    reason: str = "",
    etag: str,
) -> BudgetRow:
    """Change the definition of a budget; a new amount is recorded in the ledger, with the reason."""
    budget = await store.budgets.lock(tx, budget_id)
    budget.check_etag(etag)
    domain.budgets.advance(budget.id, budget.state, BudgetAction.CHANGE)
    for field, value in {**changes, **_rollover_changes(budget, changes)}.items():
        setattr(budget, field, value)
    if amount is not None:
        _adjust(tx, budget, amount, reason)
    balance = budget.balance
    if balance.beyond_policy:
        raise AmountBelowSpent(budget.id, amount=balance.money(balance.total), spent=balance.money(balance.used))
    await service.alerts.settle(tx, budget)
    if "recurring" in changes:
        await set_period_end_timer(tx, budget)
    return budget


def _rollover_changes(budget: BudgetRow, changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """What changes of its rollover, the cap as a number; raises InvalidFields where the two don't go together."""
    if changes.get("recurring") and budget.period_type is PeriodType.CUSTOM:
        raise InvalidFields([Violation("recurring", "a CUSTOM period has no next one", "recurring.custom")])
    if not {"rollover", "rollover_cap"} & changes.keys():
        return {}
    rollover: Rollover = changes.get("rollover", budget.rollover)
    cap: Money | None = changes.get("rollover_cap")
    number = cap.amount if cap else budget.rollover_cap if "rollover_cap" not in changes else None
    if cap and cap.currency != budget.currency_code:
        raise CurrencyMismatch(budget.id, given=cap.currency, currency=budget.currency_code)
    capped = rollover is Rollover.CAPPED
    if (capped and number is None) or (cap and not capped):
        told = "is required for the rollover CAPPED, and for nothing else"
        raise InvalidFields([Violation("rollover_cap", told, "rollover.cap")])
    return {"rollover": rollover, "rollover_cap": number if capped else None}


def _adjust(tx: WriteSession, budget: BudgetRow, amount: Money, reason: str) -> None:
    before = budget.balance
    if amount.currency != budget.currency_code:
        raise CurrencyMismatch(budget.id, given=amount.currency, currency=budget.currency_code)
    if amount.amount < before.amount and amount.amount + before.carried < before.used:
        raise AmountBelowSpent(budget.id, amount=amount, spent=before.money(before.used))
    budget.amount = amount.amount
    change = amount.amount - before.amount
    service.entries.record(tx, [budget], EntryType.ADJUST, change, moved_amount=change, description=reason)


async def reopen(tx: WriteSession, budget_id: UUID, owner: Owner, *, etag: str) -> BudgetRow:
    """Reopen a budget whose owner was found to be active, and was not retired since."""
    domain.owners.check_may_own(owner)
    return await change_state(tx, budget_id, BudgetAction.REOPEN, etag=etag)


async def change_state(tx: WriteSession, budget_id: UUID, action: BudgetAction, *, etag: str = "") -> BudgetRow:
    """Activate, close or reopen a budget, and say so when it is closed."""
    budget = await store.budgets.lock(tx, budget_id)
    budget.check_etag(etag)
    if action is BudgetAction.REOPEN:
        await _check_not_retired(tx, budget.entity_id)
    budget.state = domain.budgets.advance(budget.id, budget.state, action)
    await tx.flush()
    await set_timers(tx, budget)
    if budget.state is BudgetState.CLOSED:
        outbox.append(tx, events.published.budget_closed(budget.balance.terms))
    return budget


async def close_of_entity(tx: WriteSession, entity_id: UUID) -> None:
    """Close every budget of an entity that went out of business; it gets no new one."""
    await store.owners.retire(tx, entity_id)
    for budget in await store.budgets.lock_open(tx, entity_id):
        await change_state(tx, budget.id, BudgetAction.CLOSE)
