"""What was said of the purchase orders of contracts."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Date, Select, cast, func, select
from sqlalchemy.dialects.postgresql import insert

from kit import clock, ids
from kit.db import ReadSession, WriteSession
from services.entities.models.amendments import PurchaseOrderWarningRow
from services.entities.models.contracts import ContractRow
from services.entities.models.entities import EntityRow


async def record_warning(tx: WriteSession, contract: ContractRow, threshold_bp: int) -> bool:
    """Note that it is said that a threshold of the contract's order was passed; False where that was said before."""
    said = insert(PurchaseOrderWarningRow).values(
        tenant_id=tx.tenant_id,
        id=ids.new(),
        contract_id=contract.id,
        purchase_order_number=contract.purchase_order_number,
        purchase_order_limit=contract.purchase_order_limit,
        threshold_bp=threshold_bp,
        create_time=clock.now(),
    )
    return bool(await tx.execute(said.on_conflict_do_nothing(constraint="purchase_order_warnings_once_key")))


async def find_days(tx: ReadSession, entity_ids: Collection[UUID]) -> Mapping[UUID, date]:
    """The day that it is for each of the entities, in its time zone."""
    today = cast(func.timezone(EntityRow.time_zone, func.now()), Date)
    wanted: Select[*tuple[Any, ...]] = select(EntityRow.id, today).where(EntityRow.id.in_(entity_ids))
    return dict(map(tuple, await tx.rows(wanted)))
