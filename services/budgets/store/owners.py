"""Owners of budgets: entities, which are retired when they are deactivated."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from kit import clock
from kit.db import WriteSession
from services.budgets.models.budgets import BudgetRow, OwnerRow


async def lock_shared(tx: WriteSession, entity_id: UUID) -> OwnerRow:
    """The entity as an owner of budgets, kept from being retired until the transaction ends."""
    row = {"tenant_id": tx.tenant_id, "id": entity_id, "retired": False, "create_time": clock.now()}
    await tx.execute(insert(OwnerRow).values(row).on_conflict_do_nothing())
    (owner,) = await tx.all(select(OwnerRow).where(OwnerRow.id == entity_id).with_for_update(read=True))
    return owner


async def retire(tx: WriteSession, entity_id: UUID) -> None:
    """Let the entity have no new budget; waits for those that are being opened for it."""
    row = {"tenant_id": tx.tenant_id, "id": entity_id, "retired": True, "create_time": clock.now()}
    retired = insert(OwnerRow).values(row)
    await tx.execute(retired.on_conflict_do_update(index_elements=["tenant_id", "id"], set_={"retired": True}))


async def lock_shared_of(tx: WriteSession, budget_ids: Collection[UUID]) -> frozenset[UUID]:
    """Keep the owners of the budgets from being retired until the transaction ends; gives those that are already."""
    owners = select(BudgetRow.entity_id).where(BudgetRow.id.in_(budget_ids))
    shared = select(OwnerRow).where(OwnerRow.id.in_(owners)).order_by(OwnerRow.id).with_for_update(read=True)
    return frozenset(owner.id for owner in await tx.all(shared) if owner.retired)
