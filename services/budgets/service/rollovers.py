"""From one period to the next: a budget is closed, that of the next period is opened, and those below go along.

A tree goes over in one transaction. All its budgets are locked first, and those above: a hold changes under the lock of
its budget only, so that none is made, captured or released while it moves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final
from uuid import UUID

from eventing import outbox
from eventing.timers import set_timer
from kit import dates, ids
from kit.db import WriteSession
from kit.errors import Conflict, InvalidFields, Violation
from services.budgets import domain, events, service, store
from services.budgets.domain.balances import Balance, Movement
from services.budgets.domain.budgets import PERIOD_END_TIMER, BudgetAction, BudgetState
from services.budgets.domain.entries import EntryType
from services.budgets.domain.periods import Period
from services.budgets.domain.rollovers import RolloverRequest
from services.budgets.errors.budgets import BudgetExceeded, BudgetStateForbids, CurrencyMismatch
from services.budgets.errors.rollovers import ParentNotRolledOver, PeriodNotOver, PeriodOpened
from services.budgets.models.budgets import BudgetRow
from services.budgets.store.rollovers import HeldTotals

_OPENED_AT_ONCE: Final = 100
"""When about so many budgets were opened in one transaction, the rest is left to the next."""


@dataclass(frozen=True, slots=True)
class RolloverResult:
    """A closed budget, and the budget of its next period if one was opened."""

    closed: BudgetRow
    opened: BudgetRow | None
    moved_holds: int = 0
    opened_budgets: int = 0


@dataclass(slots=True)
class _Tree:
    """A budget, those below it and those above, all locked."""

    rows: dict[UUID, BudgetRow]
    line: list[BudgetRow]
    """The budget and the active ones below it, and what was opened after them."""
    retired: frozenset[UUID]
    """Owners that get no new budget."""
    rolled: frozenset[UUID]
    """Budgets whose next period was opened before."""
    now: datetime
    stuck: set[UUID] = field(default_factory=set)
    """Budgets that have to wait for those above."""

    def due(self, before: datetime | None) -> list[BudgetRow]:
        """Those whose next period is to be opened by itself now; only those that ended `before`, if that is given."""
        return [
            budget
            for budget in self.line
            if self.goes_by_itself(budget)
            and budget.id not in self.stuck
            and budget.period_end_time <= self.now
            and (before is None or budget.period_end_time < before)
        ]

    def goes_by_itself(self, budget: BudgetRow) -> bool:
        """Whether its next period is opened without anybody asking."""
        return budget.state is BudgetState.ACTIVE and budget.recurring and budget.id not in self.rolled

    def after(self, budget: BudgetRow) -> BudgetRow | None:
        """The budget of the next period, if it is among these."""
        return next((row for row in self.rows.values() if row.previous_id == budget.id), None)


async def roll_over(tx: WriteSession, budget_id: UUID, ask: RolloverRequest) -> RolloverResult:
    """Close a budget and open that of its next period, as somebody asks for it; raises why it can't be done."""
    await store.budgets.get(tx, budget_id)
    tree = await _locked(tx, budget_id)
    budget = tree.rows[budget_id]
    opened_id = await store.rollovers.find_next_id(tx, budget_id)
    if opened_id:
        raise PeriodOpened(budget_id, opened_id)
    domain.budgets.advance(budget.id, budget.state, BudgetAction.ROLL_OVER)
    if tree.now < budget.period_end_time and not ask.early:
        raise PeriodNotOver(budget.id, ends=budget.period_end_time)
    await _roll_due(tx, tree, before=budget.period_end_time)
    return await _roll(tx, tree, budget, ask)


async def roll_over_due(tx: WriteSession, budget_id: UUID) -> None:
    """Open the next period of a budget that recurs, if its period is over, and the ones after it until the present one.

    Those below that are behind come first, so that they still find the budget above. What was done before, is not to
    be done any more or waits for the budget above is left as it is.
    """
    tree = await _locked(tx, budget_id)
    if tree.goes_by_itself(tree.rows[budget_id]):
        await _roll_due(tx, tree, before=None)


async def _locked(tx: WriteSession, budget_id: UUID) -> _Tree:
    line, touched = await store.rollovers.tree_ids(tx, budget_id)
    retired = await store.owners.lock_shared_of(tx, line)
    rows = await store.budgets.lock_many(tx, touched)
    if await store.rollovers.tree_ids(tx, budget_id) != (line, touched):
        raise Conflict  # one was opened or closed before all were locked
    return _Tree(
        rows=rows,
        line=[rows[id] for id in line],
        retired=retired,
        rolled=await store.rollovers.rolled_over(tx, line),
        now=await store.rollovers.database_now(tx),
    )


async def _roll_due(tx: WriteSession, tree: _Tree, *, before: datetime | None) -> None:
    """Roll over what is due, the oldest first, and of those that end together the one above all."""
    opened = 0
    while due := tree.due(before):
        if opened >= _OPENED_AT_ONCE:
            for budget in due:
                set_timer(tx, PERIOD_END_TIMER, budget.id, tree.now)
            return
        first = min(due, key=lambda budget: (budget.period_end_time, len(budget.ancestor_ids), budget.id))
        try:
            opened += (await _roll(tx, tree, first, RolloverRequest())).opened_budgets
        except (ParentNotRolledOver, BudgetStateForbids):
            tree.stuck.add(first.id)


async def _roll(tx: WriteSession, tree: _Tree, root: BudgetRow, ask: RolloverRequest) -> RolloverResult:
    period = _next_period(root, ask.next_period_end)
    if ask.next_amount and ask.next_amount.currency != root.currency_code:
        raise CurrencyMismatch(root.id, given=ask.next_amount.currency, currency=root.currency_code)
    if root.entity_id in tree.retired:
        root.state = domain.budgets.advance(root.id, root.state, BudgetAction.ROLL_OVER)
        await _leave(tx, [root])
        return RolloverResult(root, None)
    opened = {root.id: _next_budget(root, period, _parent_of_next(tree, root, period))}
    if ask.next_amount:
        opened[root.id].amount = ask.next_amount.amount
    closed = [root, *_going_along(tree, root, opened)]
    own = await store.rollovers.open_holds(tx, list(opened))
    _carry(closed, opened, own)
    for new in opened.values():
        tx.add(new)
        tree.rows[new.id] = new
    tree.line += opened.values()
    await tx.flush()
    await _record(tx, tree, closed, opened, own)
    await _leave(tx, closed)
    for old in closed:
        await service.budgets.set_timers(tx, opened[old.id])
        outbox.append(tx, events.published.budget_rolled_over(old.balance.terms, opened[old.id].balance))
    return RolloverResult(root, opened[root.id], sum(aside.holds for aside in own.values()), len(opened))


def _next_period(budget: BudgetRow, custom_end: date | None) -> Period:
    current = Period(budget.period_number, budget.period_start, budget.period_end)
    try:
        return domain.rollovers.next_period(budget.period_type, budget.anchor_date, current, custom_end)
    except ValueError as error:
        raise InvalidFields([Violation("next_period_end_date", str(error), "period.end")]) from None


def _parent_of_next(tree: _Tree, budget: BudgetRow, period: Period) -> BudgetRow | None:
    """The budget above, or one of its later periods: the one within whose period the next one lies."""
    if budget.parent_id is None:
        return None
    parent: BudgetRow | None = tree.rows[budget.parent_id]
    while parent:
        if _lies_within(period, budget.time_zone, parent):
            domain.budgets.advance(parent.id, parent.state, BudgetAction.ADOPT)
            return parent
        parent = tree.after(parent)
    raise ParentNotRolledOver(budget.id, budget.parent_id, start=period.start, end=period.end)


def _lies_within(period: Period, time_zone: str, parent: BudgetRow) -> bool:
    starts, ends = dates.day_start(period.start, time_zone), dates.day_start(period.end, time_zone)
    return parent.period_start_time <= starts and ends <= parent.period_end_time


def _going_along(tree: _Tree, root: BudgetRow, opened: dict[UUID, BudgetRow]) -> Sequence[BudgetRow]:
    """Those below that end with it and fit below its next period, the ones above first; adds what is opened for each.

    Others stay below the budget that is closed.
    """
    along: list[BudgetRow] = []
    for budget in sorted(tree.line, key=lambda budget: len(budget.ancestor_ids)):
        parent = opened.get(budget.parent_id) if budget.parent_id else None
        if parent is None or not tree.goes_by_itself(budget) or budget.entity_id in tree.retired:
            continue
        period = _next_period(budget, None)
        if budget.period_end_time == root.period_end_time and _lies_within(period, budget.time_zone, parent):
            opened[budget.id] = _next_budget(budget, period, parent)
            along.append(budget)
    return along


def _next_budget(budget: BudgetRow, period: Period, parent: BudgetRow | None) -> BudgetRow:
    return BudgetRow(
        id=ids.new(),
        tenant_id=budget.tenant_id,
        entity_id=budget.entity_id,
        department_id=budget.department_id,
        parent_id=parent.id if parent else None,
        ancestor_ids=[parent.id, *parent.ancestor_ids] if parent else [],
        name=budget.name,
        category=budget.category,
        gl_code=budget.gl_code,
        period_type=budget.period_type,
        period_start=period.start,
        period_end=period.end,
        period_start_time=dates.day_start(period.start, budget.time_zone),
        period_end_time=dates.day_start(period.end, budget.time_zone),
        time_zone=budget.time_zone,
        anchor_date=budget.anchor_date,
        period_number=period.number,
        previous_id=budget.id,
        recurring=budget.recurring,
        rollover=budget.rollover,
        rollover_cap=budget.rollover_cap,
        carry_overspend=budget.carry_overspend,
        currency_code=budget.currency_code,
        amount=budget.amount,
        overspend_policy=budget.overspend_policy,
        tolerance_bp=budget.tolerance_bp,
        alert_thresholds_bp=list(budget.alert_thresholds_bp),
        state=BudgetState.ACTIVE,
    )


def _carry(closed: Sequence[BudgetRow], opened: Mapping[UUID, BudgetRow], own: Mapping[UUID, HeldTotals]) -> None:
    """Set what is carried over to each of the budgets opened, whose holds come along with those of the ones below."""
    aside = {budget.id: _movement(own.get(budget.id)) for budget in closed}
    for budget in reversed(closed):
        moving, new = aside[budget.id], opened[budget.id]
        if budget.parent_id in aside:
            above = aside[budget.parent_id]
            aside[budget.parent_id] = Movement(
                held=above.held + moving.held, committed=above.committed + moving.committed
            )
        new.carried = domain.rollovers.carried_over(
            budget.balance.moved(_reversed(moving)),
            rollover=budget.rollover,
            cap=budget.rollover_cap,
            carry_overspend=budget.carry_overspend,
            aside=moving.used,
            next_amount=new.amount,
        )


def _movement(aside: HeldTotals | None) -> Movement:
    return Movement(held=aside.held, committed=aside.committed) if aside else Movement()


def _reversed(movement: Movement) -> Movement:
    return Movement(held=-movement.held, committed=-movement.committed)


async def _record(
    tx: WriteSession,
    tree: _Tree,
    closed: Sequence[BudgetRow],
    opened: Mapping[UUID, BudgetRow],
    own: Mapping[UUID, HeldTotals],
) -> None:
    """Move what is carried and the holds, each with an entry on both sides, and close; then look at the alerts."""
    for old in closed:
        new = opened[old.id]
        service.entries.record(
            tx, [new], EntryType.ROLLOVER_IN, new.carried, moved_amount=new.carried, counterpart_id=old.id
        )
    reached: dict[UUID, BudgetRow] = {}
    for old in closed:
        if old.id in own:
            reached |= await _move_holds(tx, tree, old, opened, own[old.id])
    for old in closed:
        new = opened[old.id]
        old.carried -= new.carried
        old.state = domain.budgets.advance(old.id, old.state, BudgetAction.ROLL_OVER)
        service.entries.record(
            tx, [old], EntryType.ROLLOVER_OUT, new.carried, moved_amount=-new.carried, counterpart_id=new.id
        )
    await tx.flush()
    ended = {old.id for old in closed}
    for budget_id in sorted(reached.keys() - ended):
        await service.alerts.settle(tx, tree.rows[budget_id])


async def _move_holds(
    tx: WriteSession, tree: _Tree, old: BudgetRow, opened: Mapping[UUID, BudgetRow], aside: HeldTotals
) -> Mapping[UUID, BudgetRow]:
    """Let the holds leave the old budget and those above it, but for those that are above the new one as well.

    Gives the budgets that were moved; raises BudgetExceeded where one above the new one has no room for them.
    """
    new, movement = opened[old.id], _movement(aside)
    left, joined = [old.id, *old.ancestor_ids], [new.id, *new.ancestor_ids]
    out = [tree.rows[id] for id in left if id not in joined]
    into = [tree.rows[id] for id in joined if id not in left]
    back, amount = _reversed(movement), movement.used
    _move(out, back)
    service.entries.record(tx, out, EntryType.ROLLOVER_OUT, amount, movement=back, counterpart_id=new.id)
    for above in into:
        if above not in opened.values():
            _check_room(above.balance, movement)
    _move(into, movement)
    entry = service.entries.record(tx, into, EntryType.ROLLOVER_IN, amount, movement=movement, counterpart_id=old.id)
    await tx.flush()
    await store.rollovers.move_holds(tx, old.id, new.id, entry.id)
    return {budget.id: budget for budget in [*out, *into]}


def _check_room(balance: Balance, movement: Movement) -> None:
    if balance.moved(movement).beyond_policy:
        raise BudgetExceeded(
            balance.terms.id,
            balance.terms.name,
            requested=balance.money(movement.used),
            available=balance.money(balance.limit - balance.used),
            limit=balance.money(balance.total),
        )


def _move(chain: Sequence[BudgetRow], movement: Movement) -> None:
    for budget in chain:
        budget.held += movement.held
        budget.committed += movement.committed


async def _leave(tx: WriteSession, closed: Sequence[BudgetRow]) -> None:
    """Let the clock do nothing more to budgets that were closed, and say so."""
    await tx.flush()
    for budget in closed:
        await service.budgets.set_timers(tx, budget)
        outbox.append(tx, events.published.budget_closed(budget.balance.terms))
