"""Amendments of contracts."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from sqlalchemy import Select, func, select

from kit.db import ReadSession, WriteSession
from services.entities.domain.amendments import AmendmentState, AmendmentType
from services.entities.errors.amendments import AmendmentNotFound
from services.entities.models.amendments import AmendmentRow
from serving.pages import Page, Slice


def _of_contract(contract_id: UUID) -> Select[AmendmentRow]:
    """Whoever may see the contract may see its amendments; who asks has looked for it first."""
    return select(AmendmentRow).where(AmendmentRow.contract_id == contract_id)


async def get_amendment(tx: ReadSession, contract_id: UUID, amendment_id: UUID) -> AmendmentRow:
    """The amendment of a contract that the caller sees; raises AmendmentNotFound."""
    return _found(await tx.one_or_none(_of_contract(contract_id).where(AmendmentRow.id == amendment_id)), amendment_id)


async def lock_amendment(tx: WriteSession, contract_id: UUID, amendment_id: UUID) -> AmendmentRow:
    """The amendment of a contract that is locked, locked until the transaction ends; raises AmendmentNotFound."""
    locked = _of_contract(contract_id).where(AmendmentRow.id == amendment_id).with_for_update()
    return _found(await tx.one_or_none(locked), amendment_id)


def _found(amendment: AmendmentRow | None, amendment_id: UUID) -> AmendmentRow:
    if amendment is None:
        raise AmendmentNotFound(amendment_id)
    return amendment


async def get_contract_id(tx: ReadSession, amendment_id: UUID) -> UUID:
    """The contract that it amends, which never changes; raises AmendmentNotFound."""
    contract_id = await tx.one_or_none(select(AmendmentRow.contract_id).where(AmendmentRow.id == amendment_id))
    if contract_id is None:
        raise AmendmentNotFound(amendment_id)
    return contract_id


async def next_number(tx: WriteSession, contract_id: UUID) -> int:
    """The number of the next amendment of a contract that is locked."""
    last = await tx.one_or_none(select(func.max(AmendmentRow.number)).where(AmendmentRow.contract_id == contract_id))
    return (last or 0) + 1


async def lock_waiting(tx: WriteSession, contract_id: UUID, until: date | None = None) -> Sequence[AmendmentRow]:
    """The approved amendments of a contract that is locked, in the order in which they take effect.

    With `until`, only those that take effect on that day or before.
    """
    waiting = _of_contract(contract_id).where(AmendmentRow.state == AmendmentState.APPROVED)
    if until is not None:
        waiting = waiting.where(AmendmentRow.effective_date <= until)
    return await tx.all(waiting.order_by(AmendmentRow.effective_date, AmendmentRow.number).with_for_update())


async def list_amendments(
    tx: ReadSession,
    page: Page,
    contract_id: UUID,
    *,
    state: AmendmentState | None,
    amendment_type: AmendmentType | None,
) -> Slice[AmendmentRow]:
    """One page of the amendments of a contract that fit all filters given, oldest first."""
    wanted = _of_contract(contract_id)
    if state is not None:
        wanted = wanted.where(AmendmentRow.state == state)
    if amendment_type is not None:
        wanted = wanted.where(AmendmentRow.amendment_type == amendment_type)
    return page.slice(await tx.all(page.narrow(wanted, AmendmentRow.id)))
