"""What can be done with budgets, as a finance person would say it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from eventing import outbox
from kit import clock, ids
from kit.db import ReadSession, WriteSession
from kit.money import Money
from services.budgets import domain, events, store
from services.budgets.domain import (
    Action,
    AlertAction,
    Balance,
    Decision,
    EntryType,
    OverspendPolicy,
    PeriodType,
    State,
)
from services.budgets.errors import (
    AmountBelowSpent,
    BudgetTreeTooDeep,
    CurrencyMismatch,
    OwnerInactive,
    OwnerNotFound,
    PeriodOutsideParent,
)
from services.budgets.models import AlertRow, BudgetRow, EntryRow


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
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeDraft:
    """A charge as it is asked for."""

    amount: Money
    request_id: str
    description: str
    reference: str
    charge_time: datetime | None


async def create_budget(tx: WriteSession, draft: BudgetDraft) -> BudgetRow:
    """Create a budget whose owner was found to be active, and was not retired since."""
    if tx.scope and not tx.scope.covers(draft.entity_id, draft.department_id):
        raise OwnerNotFound(f"entity {ids.ENTITY.format(draft.entity_id)}")
    await _check_not_retired(tx, draft.entity_id)
    parent = await store.lock_parent(tx, draft.parent_id) if draft.parent_id else None
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
        time_zone=draft.time_zone,
        currency_code=draft.amount.currency,
        amount=draft.amount.amount,
        overspend_policy=draft.overspend_policy,
        tolerance_bp=draft.tolerance_bp,
        alert_thresholds_bp=list(draft.alert_thresholds_bp),
        state=draft.state,
    )
    tx.add(budget)
    await tx.flush()
    return budget


async def _check_not_retired(tx: WriteSession, entity_id: UUID) -> None:
    if (await store.share_owner(tx, entity_id)).retired:
        raise OwnerInactive(f"The entity {ids.ENTITY.format(entity_id)}")


def _check_fits_below(parent: BudgetRow, draft: BudgetDraft) -> None:
    domain.advance(parent.id, parent.state, Action.ADOPT)
    if len(parent.ancestor_ids) + 2 > domain.DEPTH_MAX:
        raise BudgetTreeTooDeep(domain.DEPTH_MAX)
    if parent.currency_code != draft.amount.currency:
        raise CurrencyMismatch(parent.id, given=draft.amount.currency, currency=parent.currency_code)
    above = parent.balance
    starts = clock.day_start(draft.period_start, draft.time_zone)
    ends = clock.day_start(draft.period_end, draft.time_zone)
    if starts < above.starts or above.ends < ends:
        raise PeriodOutsideParent(parent.id, start=parent.period_start, end=parent.period_end)


async def update_budget(
    tx: WriteSession, budget_id: UUID, changes: Mapping[str, Any], *, amount: Money | None, etag: str
) -> BudgetRow:
    """Change the definition of a budget; a new amount is recorded in the ledger."""
    budget = await store.lock_budget(tx, budget_id)
    budget.check_etag(etag)
    domain.advance(budget.id, budget.state, Action.CHANGE)
    for field, value in changes.items():
        setattr(budget, field, value)
    if amount is not None:
        _adjust(tx, budget, amount)
    if budget.balance.beyond_policy:
        raise AmountBelowSpent(budget.id, amount=budget.balance.amount, spent=budget.balance.spent)
    await tx.flush()
    passed = domain.marks_passed(budget.balance)
    await store.resolve_alerts(tx, budget.id, passed)
    await tx.flush()
    await _raise_alerts(tx, budget, budget.balance, passed, charge_id=None)
    return budget


def _adjust(tx: WriteSession, budget: BudgetRow, amount: Money) -> None:
    before = budget.balance
    if amount.currency != before.amount.currency:
        raise CurrencyMismatch(budget.id, given=amount.currency, currency=before.amount.currency)
    if amount < before.spent:
        raise AmountBelowSpent(budget.id, amount=amount, spent=before.spent)
    budget.amount = amount.amount
    budget.ledger_version += 1
    tx.add(_entry(tx, EntryType.ADJUST, [budget], [budget.balance], amount - before.amount))


async def change_state(tx: WriteSession, budget_id: UUID, action: Action, *, etag: str = "") -> BudgetRow:
    """Activate, close or reopen a budget, and say so when it is closed."""
    budget = await store.lock_budget(tx, budget_id)
    budget.check_etag(etag)
    if action is Action.REOPEN:
        await _check_not_retired(tx, budget.entity_id)
    budget.state = domain.advance(budget.id, budget.state, action)
    await tx.flush()
    if budget.state is State.CLOSED:
        outbox.append(tx, events.budget_closed(budget))
    return budget


async def close_budgets_of_entity(tx: WriteSession, entity_id: UUID) -> None:
    """Close every budget of an entity that went out of business; it gets no new one."""
    await store.retire_owner(tx, entity_id)
    for budget in await store.lock_open_budgets(tx, entity_id):
        await change_state(tx, budget.id, Action.CLOSE)


async def acknowledge_alert(tx: WriteSession, alert_id: UUID) -> AlertRow:
    """Say that somebody takes care of an alert."""
    alert = await store.lock_alert(tx, alert_id)
    alert.state = domain.advance_alert(alert.id, alert.state, AlertAction.ACKNOWLEDGE)
    await tx.flush()
    return alert


async def check_availability(
    tx: ReadSession, budget_id: UUID, amount: Money, charge_time: datetime | None
) -> domain.Availability:
    """What a charge would meet just now."""
    chain = await store.get_chain(tx, budget_id)
    return domain.availability([budget.balance for budget in chain], amount, charge_time or clock.now())


async def charge(tx: WriteSession, budget_id: UUID, draft: ChargeDraft) -> tuple[EntryRow, Decision]:
    """Charge a budget and every one above it, all or none, and raise the alerts that are due."""
    chain = await store.lock_chain(tx, budget_id)
    charge_time = draft.charge_time or clock.now()
    decision = domain.decide([budget.balance for budget in chain], draft.amount, charge_time)
    entry = _entry(tx, EntryType.CHARGE, chain, decision.after, draft.amount)
    entry.chain_versions = [budget.ledger_version + 1 for budget in chain]
    entry.verdict = decision.verdict
    entry.request_id = draft.request_id
    entry.description = draft.description
    entry.reference = draft.reference
    entry.charge_time = charge_time
    tx.add(entry)
    await tx.flush()
    await store.move_balances(tx, chain, spent=draft.amount.amount)
    for budget, before, after in zip(chain, decision.before, decision.after, strict=True):
        marks = domain.marks_passed(after) - domain.marks_passed(before)
        await _raise_alerts(tx, budget, after, marks, charge_id=entry.id)
        if before.available.amount > 0 >= after.available.amount:
            outbox.append(tx, events.budget_exhausted(budget))
    return entry, decision


def _entry(
    tx: WriteSession, entry_type: EntryType, chain: Sequence[BudgetRow], after: Sequence[Balance], amount: Money
) -> EntryRow:
    return EntryRow(
        id=ids.new(),
        entry_type=entry_type,
        budget_id=chain[0].id,
        chain_ids=[budget.id for budget in chain],
        chain_versions=[budget.ledger_version for budget in chain],
        chain_amounts=[balance.amount.amount for balance in after],
        chain_spent=[balance.spent.amount for balance in after],
        amount=amount.amount,
        currency_code=amount.currency,
        actor=tx.origin.actor,
        charge_time=clock.now(),
        create_time=clock.now(),
    )


async def _raise_alerts(
    tx: WriteSession, budget: BudgetRow, balance: Balance, marks: set[domain.Mark], *, charge_id: UUID | None
) -> None:
    for alert in await store.raise_alerts(tx, balance, marks, charge_id):
        outbox.append(tx, events.budget_alert_raised(budget, alert))
