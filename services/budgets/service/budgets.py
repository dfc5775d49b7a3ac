"""Use cases of budgets: create, change, activate, close and reopen."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, dates, ids
from kit.db import WriteSession
from kit.money import Money
from services.budgets import domain, events, service, store
from services.budgets.domain.budgets import (
    DEPTH_MAX,
    FORECAST_TIMER,
    LATE_POSTING_END_TIMER,
    PERIOD_END_TIMER,
    BudgetAction,
    BudgetDraft,
    BudgetState,
    BudgetUpdate,
    Rollover,
)
from services.budgets.domain.entries import EntryType
from services.budgets.domain.owners import Owner
from services.budgets.domain.periods import Period
from services.budgets.errors.budgets import (
    AmountBelowSpent,
    BudgetTreeTooDeep,
    CurrencyMismatch,
    OwnerInactive,
    OwnerNotFound,
    PeriodOutsideParent,
    ZonedPeriod,
)
from services.budgets.errors.fields import InvalidField
from services.budgets.models.budgets import BudgetRow


async def create(tx: WriteSession, draft: BudgetDraft, owner: Owner) -> BudgetRow:
    """Create a budget; `owner` is its entity and department, read before the transaction.

    Raises InvalidField, OwnerNotFound, OwnerInactive, BudgetNotFound, BudgetStateForbids, BudgetTreeTooDeep,
    CurrencyMismatch, PeriodOutsideParent.
    """
    if tx.scope and not tx.scope.covers(draft.entity_id, draft.department_id):  # first: it may exist, or be inactive
        raise OwnerNotFound.of(draft.entity_id, draft.department_id)
    domain.owners.check_may_own(owner)
    await store.period_locks.lock_shared(tx)
    await _check_not_retired(tx, draft.entity_id)
    parent = await store.budgets.lock_shared(tx, draft.parent_id) if draft.parent_id else None
    draft = replace(draft, time_zone=draft.time_zone or (parent or owner).time_zone)
    fiscal_month = owner.fiscal_year_start_month
    period, recurring = domain.periods.resolve(draft, fiscal_year_start_month=fiscal_month, now=clock.now())
    budget = build(_definition(draft, period, recurring=recurring), period, parent)
    budget.state = draft.state
    if parent:
        _check_fits_below(parent, budget)
    await store.budgets.save(tx, budget)
    await store.period_locks.apply_to_new(tx, [budget.id])
    set_timers(tx, budget)
    return budget


def _definition(draft: BudgetDraft, period: Period, *, recurring: bool) -> Mapping[str, Any]:
    """Return the columns that define the budget. Raises InvalidField."""
    currency, cap = draft.amount.currency, draft.rollover_cap
    domain.budgets.check_covers_descendants(draft.department_id, covers_descendants=draft.covers_descendants)
    domain.budgets.check_rollover_cap(draft.rollover, has_cap=cap is not None)
    if cap and cap.currency != currency:
        raise InvalidField("rollover_cap", f"must be in the currency of the budget, {currency}", "rollover.cap")
    return {
        "entity_id": draft.entity_id,
        "department_id": draft.department_id,
        "name": draft.name,
        "category": draft.category,
        "gl_code": draft.gl_code,
        "period_type": draft.period_type,
        "time_zone": draft.time_zone,
        "anchor_date": period.start,
        "recurring": recurring,
        "rollover": draft.rollover,
        "rollover_cap": cap.amount if cap else None,
        "carry_overspend": draft.carry_overspend,
        "late_posting_days": draft.late_posting_days,
        "covers_descendants": draft.covers_descendants,
        "currency_code": currency,
        "amount": draft.amount.amount,
        "overspend_policy": draft.overspend_policy,
        "tolerance_bp": draft.tolerance_bp,
        "alert_thresholds_bp": list(draft.alert_thresholds_bp),
    }


def build(definition: Mapping[str, Any], period: Period, parent: BudgetRow | None) -> BudgetRow:
    """Return an active budget for a period, not stored yet."""
    time_zone = definition["time_zone"]
    return BudgetRow(
        **definition,
        id=ids.new(),
        parent_id=parent.id if parent else None,
        ancestor_ids=[parent.id, *parent.ancestor_ids] if parent else [],
        period_number=period.number,
        period_start=period.start,
        period_end=period.end,
        period_start_time=dates.day_start(period.start, time_zone),
        period_end_time=dates.day_start(period.end, time_zone),
        state=BudgetState.ACTIVE,
    )


async def _check_not_retired(tx: WriteSession, entity_id: UUID) -> None:
    if (await store.owners.lock_shared(tx, entity_id)).retired:
        raise OwnerInactive(f"The entity {ids.ENTITY.format(entity_id)}")


def _check_fits_below(parent: BudgetRow, budget: BudgetRow) -> None:
    domain.budgets.advance(parent.id, parent.state, BudgetAction.ADOPT)
    if len(budget.ancestor_ids) + 1 > DEPTH_MAX:
        raise BudgetTreeTooDeep(DEPTH_MAX)
    if parent.currency_code != budget.currency_code:
        raise CurrencyMismatch(parent.id, given=budget.currency_code, currency=parent.currency_code)
    if budget.period_start_time < parent.period_start_time or parent.period_end_time < budget.period_end_time:
        raise PeriodOutsideParent(parent.id, period=_zoned_period(budget), parent_period=_zoned_period(parent))


def _zoned_period(budget: BudgetRow) -> ZonedPeriod:
    return ZonedPeriod(budget.period_start, budget.period_end, budget.time_zone)


def set_timers(tx: WriteSession, budget: BudgetRow) -> None:
    """Set or cancel the timers of a budget; call it after every change of its state."""
    set_period_end_timer(tx, budget)
    set_late_posting_end_timer(tx, budget)
    set_forecast_timer(tx, budget)


def set_period_end_timer(tx: WriteSession, budget: BudgetRow) -> None:
    """Roll an active budget over when its period ends, or else end the period.

    A budget that does not recur and is opened after its period stays open until it is closed.
    """
    if budget.state is BudgetState.ACTIVE and (budget.recurring or clock.now() < budget.period_end_time):
        set_timer(tx, PERIOD_END_TIMER, budget.id, budget.period_end_time)
    else:
        cancel_timer(tx, PERIOD_END_TIMER, budget.id)


def set_late_posting_end_timer(tx: WriteSession, budget: BudgetRow) -> None:
    """Close a budget in CLOSING when its days for late postings are over; one that was reopened later stays open."""
    end = late_posting_end(budget)
    if budget.state is BudgetState.CLOSING and clock.now() < end:
        set_timer(tx, LATE_POSTING_END_TIMER, budget.id, end)
    else:
        cancel_timer(tx, LATE_POSTING_END_TIMER, budget.id)


def late_posting_end(budget: BudgetRow) -> datetime:
    """Return the time up to which the budget accepts late postings."""
    return dates.day_start(budget.period_end + timedelta(days=budget.late_posting_days), budget.time_zone)


def set_forecast_timer(tx: WriteSession, budget: BudgetRow) -> None:
    """Check the forecast of an active budget on the next day of its period, if there is one."""
    due_time = _next_forecast_time(budget, clock.now())
    if budget.state is BudgetState.ACTIVE and due_time < budget.period_end_time:
        set_timer(tx, FORECAST_TIMER, budget.id, due_time)
    else:
        cancel_timer(tx, FORECAST_TIMER, budget.id)


def _next_forecast_time(budget: BudgetRow, now: datetime) -> datetime:
    """Return a time in the first hour of tomorrow, or of the second day of a future period.

    The time depends on the id, so that the forecasts of many budgets are spread over the hour.
    """
    day = max(dates.date_in(budget.time_zone, now), budget.period_start) + timedelta(days=1)
    return dates.day_start(day, budget.time_zone) + timedelta(seconds=60 + budget.id.int % 3000)


async def update(tx: WriteSession, budget_id: UUID, changes: BudgetUpdate, *, etag: str = "") -> BudgetRow:
    """Change the definition of a budget; a new amount is recorded in the ledger, with its reason.

    A policy that does not allow what is used already is accepted: it applies to what is charged or held from now on.

    Raises BudgetNotFound, BudgetStateForbids, CurrencyMismatch, AmountBelowSpent, InvalidField, EtagMismatch.
    """
    budget = await store.budgets.lock(tx, budget_id)
    budget.check_etag(etag)
    domain.budgets.advance(budget.id, budget.state, BudgetAction.CHANGE)
    covers_descendants = changes.columns.get("covers_descendants", False)
    domain.budgets.check_covers_descendants(budget.department_id, covers_descendants=covers_descendants)
    domain.periods.check_recurring(budget.period_type, recurring=changes.columns.get("recurring", False))
    for column, value in {**changes.columns, **_rollover_changes(budget, changes)}.items():
        setattr(budget, column, value)
    if changes.amount is not None:
        _adjust(tx, budget, changes.amount, changes.reason)
    await service.alerts.settle(tx, budget)
    if "recurring" in changes.columns:
        set_period_end_timer(tx, budget)
    return budget


def _rollover_changes(budget: BudgetRow, changes: BudgetUpdate) -> Mapping[str, Any]:
    """Return the new rollover and its cap. Raises InvalidField unless they fit together, CurrencyMismatch."""
    if "rollover" not in changes.columns and not changes.changes_cap:
        return {}
    rollover: Rollover = changes.columns.get("rollover", budget.rollover)
    cap = changes.rollover_cap
    if cap and cap.currency != budget.currency_code:
        raise CurrencyMismatch(budget.id, given=cap.currency, currency=budget.currency_code)
    amount = cap.amount if cap else None
    if not changes.changes_cap and rollover is Rollover.CAPPED:
        amount = budget.rollover_cap  # another rollover clears it
    domain.budgets.check_rollover_cap(rollover, has_cap=amount is not None)
    return {"rollover": rollover, "rollover_cap": amount}


def _adjust(tx: WriteSession, budget: BudgetRow, amount: Money, reason: str) -> None:
    before = budget.balance
    if amount.currency != budget.currency_code:
        raise CurrencyMismatch(budget.id, given=amount.currency, currency=budget.currency_code)
    if amount.amount < before.amount and amount.amount + before.carried < before.used:
        raise AmountBelowSpent(
            budget.id,
            amount=amount,
            current=before.money(before.amount),
            carried=before.money(before.carried),
            spent=before.money(before.used),
        )
    budget.amount = amount.amount
    change = amount.amount - before.amount
    service.entries.record(tx, [budget], EntryType.ADJUST, change, moved_amount=change, description=reason)


async def reopen(tx: WriteSession, budget_id: UUID, owner: Owner, *, etag: str) -> BudgetRow:
    """Reopen a closed budget; `owner` is its entity and department, read before the transaction.

    Raises BudgetNotFound, BudgetStateForbids, OwnerNotFound, OwnerInactive, EtagMismatch.
    """
    domain.owners.check_may_own(owner)
    return await change_state(tx, budget_id, BudgetAction.REOPEN, etag=etag)


async def change_state(tx: WriteSession, budget_id: UUID, action: BudgetAction, *, etag: str = "") -> BudgetRow:
    """Activate, close or reopen a budget, or end its period; publish BudgetClosed when it is closed.

    Raises BudgetNotFound, BudgetStateForbids, OwnerInactive, EtagMismatch.
    """
    budget = await store.budgets.lock(tx, budget_id)
    budget.check_etag(etag)
    if action is BudgetAction.REOPEN:
        await _check_not_retired(tx, budget.entity_id)
        if budget.carried_forward is not None:
            action = BudgetAction.REOPEN_PERIOD
    budget.state = domain.budgets.advance(budget.id, budget.state, action)
    await store.budgets.save(tx, budget)
    set_timers(tx, budget)
    if budget.state is BudgetState.CLOSED:
        outbox.append(tx, events.published.budget_closed(budget.balance.terms))
    return budget


async def end_period(tx: WriteSession, budget_id: UUID) -> None:
    """Let an active budget whose period is over accept late postings only, or close it if the days for them are over.

    Does nothing for a recurring budget, which is rolled over.
    """
    budget = await store.budgets.lock(tx, budget_id)
    now = await tx.now()
    if budget.state is not BudgetState.ACTIVE or budget.recurring or now < budget.period_end_time:
        return
    await change_state(tx, budget_id, BudgetAction.END_PERIOD)
    if late_posting_end(budget) <= now:
        await change_state(tx, budget_id, BudgetAction.CLOSE)


async def close_after_late_postings(tx: WriteSession, budget_id: UUID) -> None:
    """Close a budget in CLOSING whose days for late postings are over. Does nothing if it was closed before."""
    budget = await store.budgets.lock(tx, budget_id)
    if budget.state is BudgetState.CLOSING:
        await change_state(tx, budget_id, BudgetAction.CLOSE)


async def close_of_entity(tx: WriteSession, entity_id: UUID) -> None:
    """Close all budgets of a deactivated entity and allow no new ones."""
    await store.owners.retire(tx, entity_id)
    for budget in await store.budgets.lock_open(tx, entity_id):
        await change_state(tx, budget.id, BudgetAction.CLOSE)
