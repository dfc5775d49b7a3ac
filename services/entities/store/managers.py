"""Departments by who answers for them."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import select

from kit.db import WriteSession
from services.entities.models.entities import DepartmentRow

_AT_ONCE: Final = 500


async def lock_departments_of(tx: WriteSession, manager_user_id: str) -> Sequence[DepartmentRow]:
    """Departments for which the user answers, oldest first, locked until the transaction ends; 500 at most."""
    locked = select(DepartmentRow).where(DepartmentRow.manager_user_id == manager_user_id)
    return await tx.all(locked.order_by(DepartmentRow.id).limit(_AT_ONCE).with_for_update(key_share=True))
