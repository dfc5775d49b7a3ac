"""Use cases of period locks."""

from eventing import outbox
from kit import clock, dates
from kit.db import WriteSession
from services.budgets import domain, events, store
from services.budgets.domain.owners import Owner
from services.budgets.domain.period_locks import PeriodLockDraft
from services.budgets.errors.budgets import OwnerNotFound
from services.budgets.models.period_locks import PeriodLockRow


async def set_lock(tx: WriteSession, draft: PeriodLockDraft, owner: Owner | None) -> PeriodLockRow:
    """Set or change the lock of an entity or of the tenant, and publish PeriodLockChanged.

    `owner` is the entity, read before the transaction; None for the whole tenant. Raises InvalidField, OwnerNotFound.
    """
    if draft.entity_id and tx.scope and not tx.scope.covers(draft.entity_id):
        raise OwnerNotFound.of(draft.entity_id)
    if owner and owner.missing:
        raise OwnerNotFound(owner.missing)
    today = dates.date_in(owner.time_zone if owner else "UTC", clock.now())
    domain.period_locks.check(draft, today, confined=tx.scope is not None)
    await store.period_locks.lock(tx)
    row = await store.period_locks.find(tx, draft.entity_id)
    previous = row.locked_until if row else None
    row = row or PeriodLockRow(entity_id=draft.entity_id)
    row.locked_until, row.reason, row.actor = draft.locked_until, draft.reason, tx.origin.actor
    await store.period_locks.save(tx, row)
    await store.period_locks.apply(tx, draft.entity_id)
    outbox.append(tx, events.published.period_lock_changed(row, previous))
    return row
