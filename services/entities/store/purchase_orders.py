"""SQL for purchase order warnings."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Date, Select, cast, func, select
from sqlalchemy.dialects.postgresql import insert as insert_into

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from services.entities.models.contracts import ContractRow
from services.entities.models.entities import EntityRow
from services.entities.models.purchase_orders import PurchaseOrderWarningRow


async def insert_warning(tx: WriteSession, contract: ContractRow, threshold_bp: int) -> bool:
    """Record that a threshold of the contract's purchase order was reached; False if it was recorded before.

    Another order number or limit counts as another order.
    """
    warning = insert_into(PurchaseOrderWarningRow).values(
        tenant_id=tx.tenant_id,
        id=ids.new(),
        contract_id=contract.id,
        purchase_order_number=contract.purchase_order_number,
        purchase_order_limit=contract.purchase_order_limit,
        threshold_bp=threshold_bp,
        create_time=clock.now(),
    )
    return bool(await tx.execute(warning.on_conflict_do_nothing(constraint="purchase_order_warnings_once_key")))


async def today_by_entity(tx: ReadSession, entity_ids: Collection[UUID]) -> Mapping[UUID, date]:
    """Return today's date in the time zone of each entity."""
    today = cast(func.timezone(EntityRow.time_zone, func.now()), Date)
    query: Select[*tuple[Any, ...]] = select(EntityRow.id, today).where(EntityRow.id.in_(entity_ids))
    return dict(map(tuple, await tx.rows(query)))
