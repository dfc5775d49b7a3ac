"""Use cases of rollovers: close a budget, open the budget of its next period, and move its open holds.

A budget and those below it roll over in one transaction. It locks all of them and the budgets above first: a hold
changes only under the lock of its budget, so none is created, captured or released while it moves.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final
from uuid import UUID

from eventing import outbox
from eventing.timers import set_timer
from kit import dates
from kit.db import WriteSession
from kit.errors import Conflict
from services.budgets import domain, events, service, store
from services.budgets.domain.balances import ZERO, Balance, Movement
from services.budgets.domain.budgets import PERIOD_END_TIMER, BudgetAction, BudgetState
from services.budgets.domain.entries import EntryType
from services.budgets.domain.late_postings import RolledOver
from services.budgets.domain.periods import Period
from services.budgets.domain.postings import Key
from services.budgets.domain.rollovers import OpenHolds, RolloverRequest
from services.budgets.domain.visibility import IsVisible, Scope
from services.budgets.errors.budgets import (
    BudgetRefusal,
    BudgetStateForbids,
    CurrencyMismatch,
    ZonedPeriod,
)
from services.budgets.errors.rollovers import ParentNotRolledOver, PeriodNotOver, PeriodOpened
from services.budgets.errors.visibility import conceal
from services.budgets.models.budgets import BudgetRow

_OPENED_PER_TRANSACTION_MAX: Final = 100
"""A transaction ends after about this many opened budgets; timers start the next one."""
_NO_HOLDS: Final = OpenHolds()


@dataclass(frozen=True, slots=True)
class RolloverResult:
    """A closed budget, and the budget of its next period if one was opened."""

    closed: BudgetRow
    opened: BudgetRow | None
    moved_holds: int = 0
    """Open holds that moved, those of the budgets below included."""
    opened_budgets: int = 0


@dataclass(slots=True)
class _Tree:
    """A budget, the budgets below it and those above it, all locked."""

    rows: dict[UUID, BudgetRow]
    candidates: list[BudgetRow]
    """The budget, the active budgets below it, and the budgets of later periods that were opened after them."""
    retired: frozenset[UUID]
    """Entities that get no new budgets."""
    rolled_over: frozenset[UUID]
    """Budgets whose next period was already open."""
    now: datetime
    waiting: set[UUID] = field(default_factory=set)
    """Budgets whose next period does not fit below any open budget; they roll over with the budget above."""

    def due(self, before: datetime | None) -> list[BudgetRow]:
        """Return the budgets to roll over automatically now; with `before`, only those whose period ended before."""
        return [
            budget
            for budget in self.candidates
            if self.is_automatic(budget)
            and budget.id not in self.waiting
            and budget.period_end_time <= self.now
            and (before is None or budget.period_end_time < before)
        ]

    def is_automatic(self, budget: BudgetRow) -> bool:
        """True if the next period of the budget is opened automatically."""
        return budget.state is BudgetState.ACTIVE and budget.recurring and budget.id not in self.rolled_over

    def is_visible_to(self, scope: Scope | None) -> IsVisible:
        """Return the predicate for the budgets of the tree; None is the scope of a caller without one."""
        return lambda id: scope is None or scope.covers(self.rows[id].entity_id, self.rows[id].department_id)

    def next_of(self, budget: BudgetRow) -> BudgetRow | None:
        """Return the budget of the next period, if it is in the tree."""
        return next((row for row in self.rows.values() if row.previous_id == budget.id), None)


async def roll_over(tx: WriteSession, budget_id: UUID, request: RolloverRequest) -> RolloverResult:
    """Roll a budget over on request, after overdue budgets below it.

    Raises BudgetNotFound, BudgetStateForbids, PeriodOpened, PeriodNotOver, ParentNotRolledOver, CurrencyMismatch,
    BudgetExceeded, UsedTooLarge, InvalidField, Conflict.
    """
    await store.budgets.get(tx, budget_id)
    tree = await _lock_tree(tx, budget_id)
    budget = tree.rows[budget_id]
    opened_id = await store.rollovers.find_next_id(tx, budget_id)
    if opened_id:
        raise PeriodOpened(budget_id, opened_id)
    domain.budgets.advance(budget.id, budget.state, BudgetAction.ROLL_OVER)
    if tree.now < budget.period_end_time and not request.early:
        raise PeriodNotOver(budget.id, ends=budget.period_end_time)
    try:
        await _roll_over_due(tx, tree, before=budget.period_end_time)
        return await _roll_over(tx, tree, budget, request)
    except BudgetRefusal as refusal:
        raise conceal(refusal, tree.is_visible_to(tx.scope)) from None


async def end_period(tx: WriteSession, budget_id: UUID) -> None:
    """Roll a recurring budget over if its period is over; another one accepts only late postings from then on."""
    if (await store.budgets.get(tx, budget_id)).recurring:
        await roll_over_due(tx, budget_id)
    else:
        await service.budgets.end_period(tx, budget_id)


async def roll_over_due(tx: WriteSession, budget_id: UUID) -> None:
    """Roll a recurring budget over if its period is over, and the following periods up to the current one.

    Overdue budgets below it are rolled over first, while the budget above them is still open. Does nothing if the
    budget was rolled over or closed before, or must wait for the budget above.
    """
    tree = await _lock_tree(tx, budget_id)
    if tree.is_automatic(tree.rows[budget_id]):
        await _roll_over_due(tx, tree, before=None)


async def _lock_tree(tx: WriteSession, budget_id: UUID) -> _Tree:
    await store.period_locks.lock_shared(tx)
    tree_ids, lock_ids = await store.rollovers.find_tree_ids(tx, budget_id)
    retired = await store.owners.lock_shared_of(tx, tree_ids)
    rows = await store.budgets.lock_many(tx, lock_ids)
    if await store.rollovers.find_tree_ids(tx, budget_id) != (tree_ids, lock_ids):
        raise Conflict  # a budget was opened or closed before all were locked
    return _Tree(
        rows=rows,
        candidates=[rows[id] for id in tree_ids],
        retired=retired,
        rolled_over=await store.rollovers.find_rolled_over_ids(tx, tree_ids),
        now=await tx.now(),
    )


async def _roll_over_due(tx: WriteSession, tree: _Tree, *, before: datetime | None) -> None:
    """Roll over all budgets that are due: by the end of their periods, and at the same end from the top down."""
    opened = 0
    while due := tree.due(before):
        if opened >= _OPENED_PER_TRANSACTION_MAX:
            for budget in due:
                set_timer(tx, PERIOD_END_TIMER, budget.id, tree.now)
            return
        first = min(due, key=lambda budget: (budget.period_end_time, len(budget.ancestor_ids), budget.id))
        try:
            opened += (await _roll_over(tx, tree, first, RolloverRequest())).opened_budgets
        except (ParentNotRolledOver, BudgetStateForbids):
            tree.waiting.add(first.id)


async def _roll_over(tx: WriteSession, tree: _Tree, root: BudgetRow, request: RolloverRequest) -> RolloverResult:
    period = _next_period(root, request.next_period_end)
    if request.next_amount and request.next_amount.currency != root.currency_code:
        raise CurrencyMismatch(root.id, given=request.next_amount.currency, currency=root.currency_code)
    if root.entity_id in tree.retired:
        root.state = domain.budgets.advance(root.id, root.state, BudgetAction.CLOSE)
        await _finish_closed(tx, [root], tree.now)
        return RolloverResult(root, None)
    opened = {root.id: _build_next(root, period, _parent_of_next(tree, root, period))}
    if request.next_amount:
        opened[root.id].amount = request.next_amount.amount
    closed = [root, *_build_next_below(tree, root, opened)]
    holds = await store.rollovers.sum_open_holds(tx, list(opened))
    _carry_forward(closed, opened, holds)
    await store.budgets.save(tx, *opened.values())
    await store.period_locks.apply_to_new(tx, [budget.id for budget in opened.values()])
    tree.rows |= {budget.id: budget for budget in opened.values()}
    tree.candidates += opened.values()
    await _record(tx, tree, closed, opened, holds)
    await _finish_closed(tx, closed, tree.now)
    for old in closed:
        service.budgets.set_timers(tx, opened[old.id])
        outbox.append(tx, events.published.budget_rolled_over(old.balance.terms, opened[old.id].balance))
    return RolloverResult(root, opened[root.id], sum(each.count for each in holds.values()), len(opened))


def _next_period(budget: BudgetRow, custom_end: date | None) -> Period:
    current = Period(budget.period_number, budget.period_start, budget.period_end)
    return domain.rollovers.next_period(budget.period_type, budget.anchor_date, current, custom_end)


def _parent_of_next(tree: _Tree, budget: BudgetRow, period: Period) -> BudgetRow | None:
    """Return the parent or its later period that contains the budget's next period; None for a top budget.

    Raises ParentNotRolledOver, BudgetStateForbids.
    """
    if budget.parent_id is None:
        return None
    parent: BudgetRow | None = tree.rows[budget.parent_id]
    while parent:
        if _contains(parent, period, budget.time_zone):
            domain.budgets.advance(parent.id, parent.state, BudgetAction.ADOPT)
            return parent
        parent = tree.next_of(parent)
    next_period = ZonedPeriod(period.start, period.end, budget.time_zone)
    raise ParentNotRolledOver(budget.id, budget.parent_id, period=next_period)


def _contains(parent: BudgetRow, period: Period, time_zone: str) -> bool:
    starts, ends = dates.day_start(period.start, time_zone), dates.day_start(period.end, time_zone)
    return parent.period_start_time <= starts and ends <= parent.period_end_time


def _build_next_below(tree: _Tree, root: BudgetRow, opened: dict[UUID, BudgetRow]) -> Sequence[BudgetRow]:
    """Return the budgets below `root` that roll over with it, parents first; adds their next budgets to `opened`.

    A budget rolls over with its parent if its period ends at the same time and its next period fits below the
    parent's. The others stay below the closed budget.
    """
    closed: list[BudgetRow] = []
    for budget in sorted(tree.candidates, key=lambda budget: len(budget.ancestor_ids)):
        parent = opened.get(budget.parent_id) if budget.parent_id else None
        if parent is None or not tree.is_automatic(budget) or budget.entity_id in tree.retired:
            continue
        period = _next_period(budget, None)
        if budget.period_end_time == root.period_end_time and _contains(parent, period, budget.time_zone):
            opened[budget.id] = _build_next(budget, period, parent)
            closed.append(budget)
    return closed


def _build_next(budget: BudgetRow, period: Period, parent: BudgetRow | None) -> BudgetRow:
    next_budget = service.budgets.build(budget.definition, period, parent)
    next_budget.previous_id = budget.id
    return next_budget


def _carry_forward(
    closed: Sequence[BudgetRow], opened: Mapping[UUID, BudgetRow], holds: Mapping[UUID, OpenHolds]
) -> None:
    """Set `carried` of each opened budget. The holds of the budgets below count in each budget above them, too."""
    moving = {budget.id: holds.get(budget.id, _NO_HOLDS).movement for budget in closed}
    for budget in reversed(closed):
        movement, next_budget = moving[budget.id], opened[budget.id]
        if budget.parent_id in moving:
            above = moving[budget.parent_id]
            moving[budget.parent_id] = Movement(
                held=above.held + movement.held, committed=above.committed + movement.committed
            )
        next_budget.carried = domain.rollovers.carried_forward(
            budget.balance.moved(_reversed(movement)),
            rollover=budget.rollover,
            cap=budget.rollover_cap,
            carry_overspend=budget.carry_overspend,
            moved_holds=movement.used,
            next_amount=next_budget.amount,
        )
        budget.carried_forward, budget.moved_holds = next_budget.carried, movement.used
        budget.next_amount = next_budget.amount


def _reversed(movement: Movement) -> Movement:
    return Movement(held=-movement.held, committed=-movement.committed)


async def _record(
    tx: WriteSession,
    tree: _Tree,
    closed: Sequence[BudgetRow],
    opened: Mapping[UUID, BudgetRow],
    holds: Mapping[UUID, OpenHolds],
) -> None:
    """Record what is carried forward and the moved holds, with an entry on both sides; close and settle alerts."""
    for old in closed:
        new = opened[old.id]
        service.entries.record(
            tx, [new], EntryType.ROLLOVER_IN, new.carried, moved_amount=new.carried, counterpart_id=old.id
        )
    changed: dict[UUID, BudgetRow] = {}
    for old in closed:
        if old.id in holds:
            changed |= await _move_holds(tx, tree, old, opened, holds[old.id].movement)
    for old in closed:
        new = opened[old.id]
        old.carried -= new.carried
        old.state = domain.budgets.advance(old.id, old.state, BudgetAction.ROLL_OVER)
        service.entries.record(
            tx, [old], EntryType.ROLLOVER_OUT, new.carried, moved_amount=-new.carried, counterpart_id=new.id
        )
    await store.budgets.save(tx, *closed)
    others = sorted(changed.keys() - {old.id for old in closed})
    corrected = {each for id in others for each in _correct(tx, tree, tree.rows[id])}
    reached = [new.id for new in opened.values() if domain.alerts.reached(new.balance)]
    for budget_id in sorted({*others, *corrected, *reached}):
        await service.alerts.settle(tx, tree.rows[budget_id])


def _correct(tx: WriteSession, tree: _Tree, budget: BudgetRow) -> Collection[UUID]:
    """Correct what a budget that holds have left had carried forward in an earlier rollover. Return what changed."""
    rollovers: dict[Key, RolledOver] = {}
    balances: dict[Key, Balance] = {}
    earlier = budget
    while (later := tree.next_of(earlier)) and (rolled_over := earlier.rolled_over(later.id)):
        rollovers[earlier.tenant_id, earlier.id] = rolled_over
        balances[later.tenant_id, later.id] = later.balance
        earlier = later
    corrected: set[UUID] = set()
    for correction in domain.late_postings.corrections_of(budget.balance, rollovers, balances):
        amount = correction.amount
        closing, opened = (tree.rows[each.terms.id] for each in (correction.closing, correction.opened))
        closing.carried -= amount
        closing.carried_forward = (closing.carried_forward or ZERO) + amount
        opened.carried += amount
        for row, other, entry_type, moved in (
            (closing, opened, EntryType.ROLLOVER_OUT, -amount),
            (opened, closing, EntryType.ROLLOVER_IN, amount),
        ):
            service.entries.record(tx, [row], entry_type, amount, moved_amount=moved, counterpart_id=other.id)
        corrected |= {closing.id, opened.id}
    return corrected


async def _move_holds(
    tx: WriteSession, tree: _Tree, old: BudgetRow, opened: Mapping[UUID, BudgetRow], movement: Movement
) -> Mapping[UUID, BudgetRow]:
    """Move the open holds from the old chain to the new one; budgets in both chains don't change.

    Returns the budgets that changed. Raises BudgetExceeded or UsedTooLarge if a budget above the new one has no room
    for the holds.
    """
    new = opened[old.id]
    old_chain, new_chain = [old.id, *old.ancestor_ids], [new.id, *new.ancestor_ids]
    leaving = [tree.rows[id] for id in old_chain if id not in new_chain]
    entering = [tree.rows[id] for id in new_chain if id not in old_chain]
    back, amount = _reversed(movement), movement.used
    _apply(leaving, back)
    for above in leaving:
        if above.moved_holds is not None and above.id not in opened:
            above.moved_holds += amount  # it was rolled over earlier, without these holds
    service.entries.record(tx, leaving, EntryType.ROLLOVER_OUT, amount, movement=back, counterpart_id=new.id)
    for above in entering:
        if above not in opened.values():
            _check_room(above.balance, movement)
    _apply(entering, movement)
    entry = service.entries.record(
        tx, entering, EntryType.ROLLOVER_IN, amount, movement=movement, counterpart_id=old.id
    )
    await store.budgets.save(tx, *leaving, *entering)
    approval_ids = await store.rollovers.move_holds(tx, old.id, new.id, entry.id)
    outbox.append_all(tx, events.published.approval_holds_moved(old.id, new.id, approval_ids))
    return {budget.id: budget for budget in [*leaving, *entering]}


def _check_room(balance: Balance, movement: Movement) -> None:
    moved = balance.moved(movement)
    if moved.beyond_policy:
        raise domain.balances.exceeded(moved, movement.used)


def _apply(chain: Sequence[BudgetRow], movement: Movement) -> None:
    for budget in chain:
        budget.held += movement.held
        budget.committed += movement.committed


async def _finish_closed(tx: WriteSession, closed: Sequence[BudgetRow], now: datetime) -> None:
    """Set the timers of rolled-over budgets; close those whose days for late postings are over already."""
    for budget in closed:
        if budget.state is BudgetState.CLOSING and service.budgets.late_posting_end(budget) <= now:
            budget.state = domain.budgets.advance(budget.id, budget.state, BudgetAction.CLOSE)
    await store.budgets.save(tx, *closed)
    for budget in closed:
        service.budgets.set_timers(tx, budget)
        if budget.state is BudgetState.CLOSED:
            outbox.append(tx, events.published.budget_closed(budget.balance.terms))
