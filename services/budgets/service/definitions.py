"""Budgets themselves: opened, changed, activated, closed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from eventing import outbox
from eventing.timers import cancel_timer, set_timer
from kit import clock, dates, ids
from kit.db import WriteSession
from kit.errors import InvalidFields, Violation
from kit.money import Money
from services.budgets import events
from services.budgets.domain import marks
from services.budgets.domain.balances import ZERO, Balance, Movement
from services.budgets.domain.lives import (
    DEPTH_MAX,
    Action,
    AlertAction,
    EntryType,
    OverspendPolicy,
    PeriodType,
    Rollover,
    State,
    advance,
    advance_alert,
)
from services.budgets.domain.marks import Mark
from services.budgets.domain.owners import Owner, check_may_own
from services.budgets.errors import (
    AmountBelowSpent,
    BudgetTreeTooDeep,
    CurrencyMismatch,
    OwnerInactive,
    OwnerNotFound,
    PeriodOutsideParent,
)
from services.budgets.models import AlertRow, BudgetRow, EntryRow
from services.budgets.store import alerts, budgets

PERIOD_END: Final = "rollover"
"""The timers of budgets whose next period is opened by itself."""
FORECAST: Final = "forecast"
"""The timers of active budgets: each is looked at every day, whether it is expected to be overspent."""
_NO_MOVEMENT: Final = Movement()


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetDraft:
    """A budget as it is asked for."""

    entity_id: UUID
    department_id: UUID | None
    parent_id: UUID | None
    name: str
    category: str
    gl_code: str
    period_type: PeriodType
    period_start: date
    period_end: date
    time_zone: str
    amount: Money
    overspend_policy: OverspendPolicy
    tolerance_bp: int
    alert_thresholds_bp: Sequence[int]
    recurring: bool
    rollover: Rollover
    rollover_cap: Money | None
    carry_overspend: bool
    state: State


async def create_budget(tx: WriteSession, draft: BudgetDraft, owner: Owner) -> BudgetRow:
    """Create a budget whose owner was found to be active, and was not retired since."""
    check_may_own(owner)
    if tx.scope and not tx.scope.covers(draft.entity_id, draft.department_id):
        raise OwnerNotFound(f"entity {ids.ENTITY.format(draft.entity_id)}")
    await _check_not_retired(tx, draft.entity_id)
    parent = await budgets.lock_parent(tx, draft.parent_id) if draft.parent_id else None
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
    await await_period_end(tx, budget)
    await await_forecast(tx, budget)


async def await_forecast(tx: WriteSession, budget: BudgetRow) -> None:
    """Have the forecast of an active budget looked at on the next day of its period, if there is one; otherwise not."""
    due_time = _next_forecast(budget)
    if budget.state is State.ACTIVE and due_time < budget.period_end_time:
        set_timer(tx, FORECAST, budget.id, due_time)
    else:
        cancel_timer(tx, FORECAST, budget.id)


def _next_forecast(budget: BudgetRow) -> datetime:
    """A moment of the first hour of the next day, or of the second of the period; not the same one for all budgets."""
    today = clock.now().astimezone(ZoneInfo(budget.time_zone)).date()
    day = max(today, budget.period_start) + timedelta(days=1)
    return dates.day_start(day, budget.time_zone) + timedelta(seconds=60 + budget.id.int % 3000)


async def await_period_end(tx: WriteSession, budget: BudgetRow) -> None:
    """Have the next period opened when this one ends, if the budget is active and recurs; otherwise not."""
    if budget.recurring and budget.state is State.ACTIVE:
        set_timer(tx, PERIOD_END, budget.id, budget.period_end_time)
    else:
        cancel_timer(tx, PERIOD_END, budget.id)


async def _check_not_retired(tx: WriteSession, entity_id: UUID) -> None:
    if (await budgets.share_owner(tx, entity_id)).retired:
        raise OwnerInactive(f"The entity {ids.ENTITY.format(entity_id)}")


def _check_fits_below(parent: BudgetRow, draft: BudgetDraft) -> None:
    advance(parent.id, parent.state, Action.ADOPT)
    if len(parent.ancestor_ids) + 2 > DEPTH_MAX:
        raise BudgetTreeTooDeep(DEPTH_MAX)
    if parent.currency_code != draft.amount.currency:
        raise CurrencyMismatch(parent.id, given=draft.amount.currency, currency=parent.currency_code)
    starts = dates.day_start(draft.period_start, draft.time_zone)
    ends = dates.day_start(draft.period_end, draft.time_zone)
    if starts < parent.period_start_time or parent.period_end_time < ends:
        raise PeriodOutsideParent(parent.id, start=parent.period_start, end=parent.period_end)


async def update_budget(
    tx: WriteSession,
    budget_id: UUID,
    changes: Mapping[str, Any],
    *,
    amount: Money | None,
    reason: str = "",
    etag: str,
) -> BudgetRow:
    """Change the definition of a budget; a new amount is recorded in the ledger, with the reason."""
    budget = await budgets.lock_budget(tx, budget_id)
    budget.check_etag(etag)
    advance(budget.id, budget.state, Action.CHANGE)
    for field, value in {**changes, **_rollover_changes(budget, changes)}.items():
        setattr(budget, field, value)
    if amount is not None:
        _adjust(tx, budget, amount, reason)
    balance = budget.balance
    if balance.beyond_policy:
        raise AmountBelowSpent(budget.id, amount=balance.money(balance.total), spent=balance.money(balance.used))
    await settle_alerts(tx, budget)
    if "recurring" in changes:
        await await_period_end(tx, budget)
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


async def settle_alerts(tx: WriteSession, budget: BudgetRow) -> None:
    """Resolve the alerts of the marks that a locked budget is no longer past, and raise those it is past now."""
    await tx.flush()
    passed = marks.marks_passed(budget.balance)
    await alerts.resolve_alerts(tx, budget.id, marks.PASSED_BY_USE, passed)
    await tx.flush()
    await raise_alerts(tx, budget.balance, passed)
    if budget.state is State.ACTIVE:
        set_timer(tx, FORECAST, budget.id, clock.now())  # more or less may suffice now


def _adjust(tx: WriteSession, budget: BudgetRow, amount: Money, reason: str) -> None:
    before = budget.balance
    if amount.currency != budget.currency_code:
        raise CurrencyMismatch(budget.id, given=amount.currency, currency=budget.currency_code)
    if amount.amount < before.amount and amount.amount + before.carried < before.used:
        raise AmountBelowSpent(budget.id, amount=amount, spent=before.money(before.used))
    budget.amount = amount.amount
    change = amount.amount - before.amount
    record_entry(tx, budget, EntryType.ADJUST, change, moved=change, description=reason)


async def reopen_budget(tx: WriteSession, budget_id: UUID, owner: Owner, *, etag: str) -> BudgetRow:
    """Reopen a budget whose owner was found to be active, and was not retired since."""
    check_may_own(owner)
    return await change_state(tx, budget_id, Action.REOPEN, etag=etag)


async def change_state(tx: WriteSession, budget_id: UUID, action: Action, *, etag: str = "") -> BudgetRow:
    """Activate, close or reopen a budget, and say so when it is closed."""
    budget = await budgets.lock_budget(tx, budget_id)
    budget.check_etag(etag)
    if action is Action.REOPEN:
        await _check_not_retired(tx, budget.entity_id)
    budget.state = advance(budget.id, budget.state, action)
    await tx.flush()
    await set_timers(tx, budget)
    if budget.state is State.CLOSED:
        outbox.append(tx, events.budget_closed(budget.balance.terms))
    return budget


async def close_budgets_of_entity(tx: WriteSession, entity_id: UUID) -> None:
    """Close every budget of an entity that went out of business; it gets no new one."""
    await budgets.retire_owner(tx, entity_id)
    for budget in await budgets.lock_open_budgets(tx, entity_id):
        await change_state(tx, budget.id, Action.CLOSE)


async def acknowledge_alert(tx: WriteSession, alert_id: UUID) -> AlertRow:
    """Say that somebody takes care of an alert."""
    alert = await alerts.lock_alert(tx, alert_id)
    alert.state = advance_alert(alert.id, alert.state, AlertAction.ACKNOWLEDGE)
    await tx.flush()
    return alert


def record_entry(
    tx: WriteSession,
    budget: BudgetRow,
    entry_type: EntryType,
    amount: Decimal,
    *,
    moved: Decimal,
    counterpart_id: UUID | None = None,
    description: str = "",
) -> EntryRow:
    """Append to the ledger that what a locked budget has to use was changed by `moved`, as its row says already."""
    return record_on_chain(
        tx,
        budget,
        [budget],
        entry_type,
        amount,
        moved=moved,
        counterpart_id=counterpart_id,
        description=description,
    )


def record_on_chain(
    tx: WriteSession,
    budget: BudgetRow,
    chain: Sequence[BudgetRow],
    entry_type: EntryType,
    amount: Decimal,
    *,
    moved: Decimal = ZERO,
    movement: Movement = _NO_MOVEMENT,
    counterpart_id: UUID | None = None,
    description: str = "",
) -> EntryRow:
    """Append to the ledger of a budget what changed it, or some above it: all in `chain`, whose rows say so already."""
    for moved_budget in chain:
        moved_budget.ledger_version += 1
    after = [moved_budget.balance for moved_budget in chain]
    now = clock.now()
    entry = EntryRow(
        id=ids.new(),
        entry_type=entry_type,
        budget_id=budget.id,
        chain_ids=[balance.terms.id for balance in after],
        chain_versions=[balance.version for balance in after],
        chain_amounts=[balance.total for balance in after],
        chain_spent=[balance.spent for balance in after],
        chain_held=[balance.held for balance in after],
        chain_committed=[balance.committed for balance in after],
        amount=amount,
        currency_code=budget.currency_code,
        moved_amount=moved,
        moved_spent=movement.spent,
        moved_held=movement.held,
        moved_committed=movement.committed,
        moved_captured=movement.captured,
        counterpart_id=counterpart_id,
        request_id=getattr(tx.origin, "key", "") or None,
        description=description,
        actor=tx.origin.actor,
        charge_time=now,
        create_time=now,
    )
    tx.add(entry)
    return entry


async def raise_alerts(
    tx: WriteSession, balance: Balance, passed: set[Mark], *, expected: Decimal | None = None
) -> None:
    """Raise the alerts of the marks that have none open, and say so; `expected` where only that has passed them."""
    for alert in await alerts.raise_alerts(tx, balance, passed, expected=expected):
        mark = Mark(alert.alert_type, alert.threshold_bp)
        event = events.budget_alert_raised(
            balance, mark, alert.id, alert.charge_id, alert.create_time, expected=expected
        )
        outbox.append(tx, event)
