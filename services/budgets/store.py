"""Every SQL statement of the budgets service."""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from kit import clock, ids
from kit.db import ReadSession, WriteSession, within
from kit.money import BP
from services.budgets import domain
from services.budgets.domain import AlertAction, AlertState, AlertType, Balance, EntryType, Mark, State
from services.budgets.errors import AlertNotFound, BudgetNotFound, ChargeNotFound
from services.budgets.models import AlertRow, BudgetRow, EntryRow, OwnerRow
from serving.pages import Page, Slice


def _visible(tx: ReadSession) -> Select[BudgetRow]:
    """Budgets that the caller may see."""
    covered = within(tx.scope, BudgetRow.entity_id, BudgetRow.department_id)
    return select(BudgetRow) if covered is None else select(BudgetRow).where(covered)


async def share_owner(tx: WriteSession, entity_id: UUID) -> OwnerRow:
    """The entity as an owner of budgets, kept from being retired until the transaction ends."""
    row = {"tenant_id": tx.tenant_id, "id": entity_id, "retired": False, "create_time": clock.now()}
    await tx.execute(insert(OwnerRow).values(row).on_conflict_do_nothing())
    (owner,) = await tx.all(select(OwnerRow).where(OwnerRow.id == entity_id).with_for_update(read=True))
    return owner


async def retire_owner(tx: WriteSession, entity_id: UUID) -> None:
    """Let the entity have no new budget; waits for those that are being opened for it."""
    row = {"tenant_id": tx.tenant_id, "id": entity_id, "retired": True, "create_time": clock.now()}
    retired = insert(OwnerRow).values(row)
    await tx.execute(retired.on_conflict_do_update(index_elements=["tenant_id", "id"], set_={"retired": True}))


async def get_budget(tx: ReadSession, budget_id: UUID) -> BudgetRow:
    """The budget; raises BudgetNotFound."""
    return _found(await tx.one_or_none(_visible(tx).where(BudgetRow.id == budget_id)), budget_id)


async def lock_budget(tx: WriteSession, budget_id: UUID) -> BudgetRow:
    """The budget, locked until the transaction ends; raises BudgetNotFound."""
    locked = _visible(tx).where(BudgetRow.id == budget_id).with_for_update(key_share=True)
    return _found(await tx.one_or_none(locked), budget_id)


async def lock_parent(tx: WriteSession, budget_id: UUID) -> BudgetRow:
    """The budget, kept from changing until the transaction ends; raises BudgetNotFound."""
    locked = _visible(tx).where(BudgetRow.id == budget_id).with_for_update(read=True)
    return _found(await tx.one_or_none(locked), budget_id)


def _found(budget: BudgetRow | None, budget_id: UUID) -> BudgetRow:
    if budget is None:
        raise BudgetNotFound(budget_id)
    return budget


async def list_budgets(
    tx: ReadSession,
    page: Page,
    *,
    entity_id: UUID | None,
    department_id: UUID | None,
    parent_id: UUID | None,
    state: State | None,
    period_date: date | None,
    utilisation_min_bp: int,
) -> Slice[BudgetRow]:
    """One page of the budgets that fit all filters given, oldest first."""
    wanted = _visible(tx)
    if entity_id is not None:
        wanted = wanted.where(BudgetRow.entity_id == entity_id)
    if department_id is not None:
        wanted = wanted.where(BudgetRow.department_id == department_id)
    if parent_id is not None:
        wanted = wanted.where(BudgetRow.parent_id == parent_id)
    if state is not None:
        wanted = wanted.where(BudgetRow.state == state)
    if period_date is not None:
        wanted = wanted.where(BudgetRow.period_start <= period_date, period_date < BudgetRow.period_end)
    if utilisation_min_bp:
        wanted = wanted.where(BudgetRow.spent * BP >= BudgetRow.amount * utilisation_min_bp)
    return page.slice(await tx.all(page.narrow(wanted, BudgetRow.id)))


async def lock_open_budgets(tx: WriteSession, entity_id: UUID) -> Sequence[BudgetRow]:
    """All budgets of the entity that are not closed, locked in id order."""
    still_open = select(BudgetRow).where(BudgetRow.entity_id == entity_id, BudgetRow.state != State.CLOSED)
    return await tx.all(still_open.order_by(BudgetRow.id).with_for_update(key_share=True))


async def get_chain(tx: ReadSession, budget_id: UUID) -> Sequence[BudgetRow]:
    """The budget and all above it, in this order; raises BudgetNotFound."""
    return _in_chain_order(await tx.all(_chain(tx, budget_id)), budget_id)


async def lock_chain(tx: WriteSession, budget_id: UUID) -> Sequence[BudgetRow]:
    """As get_chain, locked until the transaction ends; in id order, so that two chains never wait for each other."""
    locked = _chain(tx, budget_id).order_by(BudgetRow.id).with_for_update(key_share=True, of=BudgetRow)
    return _in_chain_order(await tx.all(locked), budget_id)


def _chain(tx: ReadSession, budget_id: UUID) -> Select[BudgetRow]:
    # The caller must see the budget that is charged; those above it count whether the caller may see them or not.
    charged = _visible(tx).where(BudgetRow.id == budget_id).subquery()
    of_chain = select(func.unnest(func.array_append(charged.c.ancestor_ids, charged.c.id)))
    return select(BudgetRow).where(BudgetRow.id.in_(of_chain))


def _in_chain_order(rows: Sequence[BudgetRow], budget_id: UUID) -> Sequence[BudgetRow]:
    by_id = {row.id: row for row in rows}
    charged = _found(by_id.get(budget_id), budget_id)
    return [charged, *(by_id[ancestor_id] for ancestor_id in charged.ancestor_ids)]


async def move_balances(tx: WriteSession, chain: Sequence[BudgetRow], *, spent: Decimal) -> None:
    """Add to what is spent of each budget of the locked chain; their definition, and so their etag, stays."""
    moved = {
        BudgetRow.spent: BudgetRow.spent + spent,
        BudgetRow.ledger_version: BudgetRow.ledger_version + 1,
        BudgetRow.update_time: BudgetRow.update_time,
    }
    budgets = update(BudgetRow).where(BudgetRow.id.in_([row.id for row in chain])).values(moved)
    await tx.execute(budgets.execution_options(synchronize_session=False))


async def get_charge(tx: ReadSession, request_id: str) -> tuple[EntryRow, dict[UUID, str]]:
    """The charge made with the key, and the names of the budgets of its chain; raises ChargeNotFound."""
    made = EntryRow.request_id == request_id, EntryRow.entry_type == EntryType.CHARGE
    entry = await tx.one_or_none(select(EntryRow).where(*made))
    if entry is None or await tx.one_or_none(_visible(tx).where(BudgetRow.id == entry.budget_id)) is None:
        raise ChargeNotFound(request_id)
    names = await tx.rows(select(BudgetRow.id, BudgetRow.name).where(BudgetRow.id.in_(entry.chain_ids)))
    return entry, {row.id: row.name for row in names}


async def raise_alerts(
    tx: WriteSession, balance: Balance, marks: Collection[Mark], charge_id: UUID | None
) -> Sequence[AlertRow]:
    """Open an alert for each of the marks that has none open, and give those that were opened."""
    if not marks:
        return []
    moment = clock.now()
    rows = [
        {
            "tenant_id": tx.tenant_id,
            "id": ids.new(),
            "budget_id": balance.id,
            "alert_type": mark.type,
            "threshold_bp": mark.threshold_bp,
            "utilisation_bp": balance.utilisation_bp,
            "currency_code": balance.amount.currency,
            "amount": balance.amount.amount,
            "spent": balance.spent.amount,
            "charge_id": charge_id,
            "state": AlertState.OPEN,
            "version": 1,
            "create_time": moment,
            "update_time": moment,
        }
        for mark in sorted(marks, key=lambda mark: (mark.threshold_bp, mark.type))
    ]
    return await tx.returning(insert(AlertRow).values(rows).on_conflict_do_nothing().returning(AlertRow))


async def resolve_alerts(tx: WriteSession, budget_id: UUID, still_passed: Collection[Mark]) -> None:
    """Resolve the alerts of the budget whose mark is not among those it still is past."""
    not_resolved = select(AlertRow).where(AlertRow.budget_id == budget_id, AlertRow.state != AlertState.RESOLVED)
    for alert in await tx.all(not_resolved):
        if Mark(alert.alert_type, alert.threshold_bp) not in still_passed:
            alert.state = domain.advance_alert(alert.id, alert.state, AlertAction.RESOLVE)


async def list_alerts(
    tx: ReadSession,
    page: Page,
    budget_id: UUID | None,
    *,
    state: AlertState | None,
    alert_type: AlertType | None,
    since: datetime | None = None,
) -> Slice[AlertRow]:
    """One page of the alerts of the budget, or of all that the caller may see, newest first."""
    wanted = _visible_alerts(tx)
    if budget_id is not None:
        wanted = wanted.where(AlertRow.budget_id == budget_id)
    if state is not None:
        wanted = wanted.where(AlertRow.state == state)
    if alert_type is not None:
        wanted = wanted.where(AlertRow.alert_type == alert_type)
    if since is not None:
        wanted = wanted.where(AlertRow.create_time >= since)
    return page.slice(await tx.all(page.narrow(wanted, AlertRow.id, newest_first=True)))


async def lock_alert(tx: WriteSession, alert_id: UUID) -> AlertRow:
    """The alert, locked until the transaction ends; raises AlertNotFound."""
    locked = _visible_alerts(tx).where(AlertRow.id == alert_id).with_for_update(of=AlertRow)
    alert = await tx.one_or_none(locked)
    if alert is None:
        raise AlertNotFound(alert_id)
    return alert


def _visible_alerts(tx: ReadSession) -> Select[AlertRow]:
    """Alerts of the budgets that the caller may see."""
    if tx.scope is None:
        return select(AlertRow)
    return select(AlertRow).where(AlertRow.budget_id.in_(_visible(tx).with_only_columns(BudgetRow.id)))


async def list_entries(
    tx: ReadSession, page: Page, budget_id: UUID, *, entry_type: EntryType | None, as_of: datetime | None
) -> Slice[EntryRow]:
    """One page of the entries that moved the budget, newest first."""
    wanted = select(EntryRow).where(_moved(budget_id))
    if entry_type is not None:
        wanted = wanted.where(EntryRow.entry_type == entry_type)
    if as_of is not None:
        wanted = wanted.where(EntryRow.create_time <= as_of)
    return page.slice(await tx.all(page.narrow(wanted, EntryRow.id, newest_first=True)))


async def sum_ledger(tx: ReadSession, budget_id: UUID) -> tuple[BudgetRow, Decimal, int]:
    """The budget, what its ledger says is spent, and how many entries moved it, all of one moment."""
    charged = func.coalesce(func.sum(EntryRow.amount).filter(EntryRow.entry_type == EntryType.CHARGE), 0)
    ledger = select(charged.label("spent"), func.count().label("entries")).where(_moved(budget_id)).subquery()
    wanted = select(BudgetRow, ledger.c.spent, ledger.c.entries).join(ledger, true()).where(BudgetRow.id == budget_id)
    # Read anew where the session has the budget already: both sides must be of the moment of this statement.
    ((budget, spent, entries),) = await tx.rows(wanted.execution_options(populate_existing=True))
    return budget, spent, entries


def _moved(budget_id: UUID) -> ColumnElement[bool]:
    """Entries that moved the budget: its own, and charges on those below it, which are in the tree for good."""
    tree = select(BudgetRow.id).where(BudgetRow.id == budget_id).cte("tree", recursive=True)
    below = aliased(BudgetRow)
    tree = tree.union_all(select(below.id).join(tree, below.parent_id == tree.c.id))
    own_or_charge = (EntryRow.budget_id == budget_id) | (EntryRow.entry_type == EntryType.CHARGE)
    return and_(EntryRow.budget_id.in_(select(tree.c.id)), own_or_charge)
