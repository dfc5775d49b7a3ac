"""What the clock does to departments, contracts and amendments."""

from typing import Final
from uuid import UUID

from eventing.timers import TimerHandler, due
from kit.db import WriteSession
from services.entities import service, store
from services.entities.service.contracts import AMENDMENT, CONTRACT_END, CONTRACT_NOTICE
from services.entities.service.placements import DEPARTMENT_MOVES
from services.entities.service.purchase_orders import PURCHASE_ORDER


@due(DEPARTMENT_MOVES)
async def move_departments(tx: WriteSession, entity_id: UUID) -> None:
    """Have the departments of an entity where they were planned to be from today on."""
    await service.placements.apply_due(tx, await store.entities.lock_unscoped(tx, entity_id))


@due(CONTRACT_NOTICE)
async def tell_of_end(tx: WriteSession, contract_id: UUID) -> None:
    """Tell the parties of a contract that its end comes."""
    await service.renewals.tell_of_end(tx, contract_id)


@due(CONTRACT_END)
async def end_term(tx: WriteSession, contract_id: UUID) -> None:
    """Let a contract end, or go on as its successor."""
    await service.renewals.end_term(tx, contract_id)


@due(AMENDMENT)
async def take_effect(tx: WriteSession, amendment_id: UUID) -> None:
    """Let an amendment take effect, or reject it where it can't any more."""
    await service.amendments.apply_due(tx, amendment_id)


@due(PURCHASE_ORDER)
async def look_at_purchase_order(tx: WriteSession, contract_id: UUID) -> None:
    """Say that the fees of a contract have come near the limit of its purchase order, or beyond it."""
    await service.purchase_orders.look_at_purchase_order(tx, contract_id)


HANDLERS: Final[tuple[TimerHandler, ...]] = (
    move_departments,
    tell_of_end,
    end_term,
    take_effect,
    look_at_purchase_order,
)
