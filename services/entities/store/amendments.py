"""SQL for contract amendments."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from sqlalchemy import Select, func, select

from kit.db import ReadSession, WriteSession, found
from services.entities.domain.amendments import AmendmentFilter, AmendmentState
from services.entities.errors.amendments import AmendmentNotFound
from services.entities.models.amendments import AmendmentRow
from serving.pages import Page, Slice


def _of_contract(contract_id: UUID) -> Select[AmendmentRow]:
    """Return the query for the amendments of a contract.

    It doesn't apply the caller's scope: callers read or lock the contract first, which does.
    """
    return select(AmendmentRow).where(AmendmentRow.contract_id == contract_id)


async def get(tx: ReadSession, contract_id: UUID, amendment_id: UUID) -> AmendmentRow:
    """Return the amendment of a contract. Raises AmendmentNotFound."""
    row = await tx.one_or_none(_of_contract(contract_id).where(AmendmentRow.id == amendment_id))
    return found(row, AmendmentNotFound(amendment_id))


async def lock(tx: WriteSession, contract_id: UUID, amendment_id: UUID) -> AmendmentRow:
    """Return the amendment of a locked contract, locked until the transaction ends. Raises AmendmentNotFound."""
    row = await tx.one_or_none(_of_contract(contract_id).where(AmendmentRow.id == amendment_id).with_for_update())
    return found(row, AmendmentNotFound(amendment_id))


async def get_contract_id(tx: ReadSession, amendment_id: UUID) -> UUID:
    """Return the contract that is amended, which never changes. Raises AmendmentNotFound."""
    contract_id = await tx.one_or_none(select(AmendmentRow.contract_id).where(AmendmentRow.id == amendment_id))
    return found(contract_id, AmendmentNotFound(amendment_id))


async def save(tx: WriteSession, amendment: AmendmentRow) -> None:
    """Insert the amendment or write its changes, which gives it an id and a new etag; also writes its contract's."""
    tx.add(amendment)
    await tx.flush()


async def next_number(tx: WriteSession, contract_id: UUID) -> int:
    """Return the number of the next amendment of a locked contract."""
    last = await tx.one_or_none(select(func.max(AmendmentRow.number)).where(AmendmentRow.contract_id == contract_id))
    return (last or 0) + 1


async def list_approved(tx: ReadSession, contract_id: UUID, until: date) -> Sequence[AmendmentRow]:
    """Return the approved amendments that take effect on that day or earlier, in the order in which they do."""
    return await tx.all(_approved(contract_id, until))


async def lock_approved(tx: WriteSession, contract_id: UUID, until: date | None = None) -> Sequence[AmendmentRow]:
    """Return the approved amendments of a locked contract, in the order in which they take effect, locked as well.

    With `until`, only those that take effect on that day or earlier.
    """
    return await tx.all(_approved(contract_id, until).with_for_update())


def _approved(contract_id: UUID, until: date | None) -> Select[AmendmentRow]:
    """Select the approved amendments in the order in which they take effect; with `until`, those up to that day."""
    query = _of_contract(contract_id).where(AmendmentRow.state == AmendmentState.APPROVED)
    if until is not None:
        query = query.where(AmendmentRow.effective_date <= until)
    return query.order_by(AmendmentRow.effective_date, AmendmentRow.number)


async def list_page(tx: ReadSession, page: Page, contract_id: UUID, filters: AmendmentFilter) -> Slice[AmendmentRow]:
    """Return one page of the amendments of a contract that match all filters, oldest first."""
    query = _of_contract(contract_id)
    if filters.state is not None:
        query = query.where(AmendmentRow.state == filters.state)
    if filters.amendment_type is not None:
        query = query.where(AmendmentRow.amendment_type == filters.amendment_type)
    return await page.fetch(tx, query, AmendmentRow.id)
