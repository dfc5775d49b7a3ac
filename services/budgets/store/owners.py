"""SQL for the owners of budgets: entities, which are retired when they are deactivated."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from kit import clock
from kit.db import WriteSession
from services.budgets.models.budgets import BudgetRow, OwnerRow


async def lock_shared(tx: WriteSession, entity_id: UUID) -> OwnerRow:
    """Return the entity as an owner, added if it is new, protected from retirement until the transaction ends."""
    row = {"tenant_id": tx.tenant_id, "id": entity_id, "retired": False, "create_time": clock.now()}
    await tx.execute(insert(OwnerRow).values(row).on_conflict_do_nothing())
    (owner,) = await tx.all(select(OwnerRow).where(OwnerRow.id == entity_id).with_for_update(read=True))
    return owner


async def lock_shared_of(tx: WriteSession, budget_ids: Collection[UUID]) -> frozenset[UUID]:
    """Protect the owners of the budgets from retirement until the transaction ends; returns those already retired."""
    entity_ids = select(BudgetRow.entity_id).where(BudgetRow.id.in_(budget_ids))
    query = select(OwnerRow).where(OwnerRow.id.in_(entity_ids)).order_by(OwnerRow.id).with_for_update(read=True)
    return frozenset(owner.id for owner in await tx.all(query) if owner.retired)


async def retire(tx: WriteSession, entity_id: UUID) -> None:
    """Allow the entity no new budgets; waits for transactions that are creating budgets for it."""
    row = {"tenant_id": tx.tenant_id, "id": entity_id, "retired": True, "create_time": clock.now()}
    query = insert(OwnerRow).values(row)
    await tx.execute(query.on_conflict_do_update(index_elements=["tenant_id", "id"], set_={"retired": True}))
