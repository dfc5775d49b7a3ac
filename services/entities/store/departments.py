"""Departments and the tree they form."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, BindParameter, Select, Uuid, any_, bindparam, literal, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from kit.db import ReadSession, WriteSession, constraint_name, scope_filter
from services.entities import store
from services.entities.domain.departments import DEPARTMENT_DEPTH_MAX, DepartmentState
from services.entities.errors.departments import DepartmentCodeTaken, DepartmentNotFound
from services.entities.models.entities import DepartmentRow
from serving.pages import Page, Slice


def _visible_departments(tx: ReadSession) -> Select[DepartmentRow]:
    """Departments that the caller may see."""
    covered = scope_filter(tx.scope, DepartmentRow.entity_id, DepartmentRow.id)
    return select(DepartmentRow) if covered is None else select(DepartmentRow).where(covered)


async def get(tx: ReadSession, department_id: UUID) -> DepartmentRow:
    """The department; raises DepartmentNotFound."""
    wanted = _visible_departments(tx).where(DepartmentRow.id == department_id)
    return _found_department(await tx.one_or_none(wanted), department_id)


async def get_entity_id(tx: ReadSession, department_id: UUID) -> UUID:
    """The entity of the department, for ever the same; raises DepartmentNotFound."""
    wanted = _visible_departments(tx).where(DepartmentRow.id == department_id)
    found = await tx.one_or_none(wanted.with_only_columns(DepartmentRow.entity_id))
    if found is None:
        raise DepartmentNotFound(department_id)
    return found


async def lock(tx: WriteSession, department_id: UUID) -> DepartmentRow:
    """The department, locked until the transaction ends; raises DepartmentNotFound."""
    locked = _visible_departments(tx).where(DepartmentRow.id == department_id).with_for_update(key_share=True)
    return _found_department(await tx.one_or_none(locked), department_id)


async def lock_shared(tx: WriteSession, department_id: UUID) -> DepartmentRow:
    """The department, kept from changing until the transaction ends; raises DepartmentNotFound."""
    kept = _visible_departments(tx).where(DepartmentRow.id == department_id).with_for_update(read=True)
    return _found_department(await tx.one_or_none(kept), department_id)


def _found_department(department: DepartmentRow | None, department_id: UUID) -> DepartmentRow:
    if department is None:
        raise DepartmentNotFound(department_id)
    return department


async def save(tx: WriteSession, department: DepartmentRow) -> None:
    """Write a new or changed department, which gives it its id and etag; raises DepartmentCodeTaken."""
    entity_id, code = department.entity_id, department.code  # a flush that fails takes the row's values with it
    tx.add(department)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "departments_code_key":
            raise DepartmentCodeTaken(entity_id, code) from error
        raise


async def list_page(
    tx: ReadSession,
    page: Page,
    *,
    entity_id: UUID | None,
    parent_id: UUID | None,
    manager_user_id: str,
    cost_center: str,
    state: DepartmentState | None,
) -> Slice[DepartmentRow]:
    """One page of the departments that fit all filters given, oldest first."""
    wanted = _visible_departments(tx)
    if entity_id is not None:
        wanted = wanted.where(DepartmentRow.entity_id == entity_id)
    if parent_id is not None:
        wanted = wanted.where(DepartmentRow.parent_id == parent_id)
    if manager_user_id:
        wanted = wanted.where(DepartmentRow.manager_user_id == manager_user_id)
    if cost_center:
        wanted = wanted.where(DepartmentRow.cost_center == cost_center)
    if state is not None:
        wanted = wanted.where(DepartmentRow.state == state)
    return page.slice(await tx.all(page.narrow(wanted, DepartmentRow.id)))


async def list_by_ids(tx: ReadSession, department_ids: Collection[UUID]) -> Sequence[DepartmentRow]:
    """Those of the departments that there are, oldest first."""
    wanted = _visible_departments(tx).where(DepartmentRow.id.in_(department_ids))
    return await tx.all(wanted.order_by(DepartmentRow.id))


async def list_by_ids_unscoped(tx: ReadSession, department_ids: Collection[UUID]) -> Sequence[DepartmentRow]:
    """As find_departments, whatever the caller may see."""
    return await tx.all(select(DepartmentRow).where(DepartmentRow.id.in_(department_ids)).order_by(DepartmentRow.id))


async def find_paths(tx: ReadSession, department_ids: Collection[UUID]) -> Mapping[UUID, Sequence[UUID]]:
    """Where each of the departments is in the tree of today: the ids from the top down to itself.

    Departments that do not exist are left out. The caller's scope is not looked at.
    """
    paths: dict[UUID, list[UUID]] = {}
    for of, id in await tx.rows(_PATHS, department_ids=list(department_ids)):
        paths.setdefault(of, []).append(id)
    return paths


def _paths_to(department_ids: BindParameter[Any]) -> Select[UUID, UUID]:
    above = aliased(DepartmentRow)
    start = select(DepartmentRow.id.label("of"), DepartmentRow.id, DepartmentRow.parent_id, literal(0).label("steps"))
    path = start.where(DepartmentRow.id == any_(department_ids)).cte("path", recursive=True)
    up = select(path.c.of, above.id, above.parent_id, path.c.steps + 1).join(path, above.id == path.c.parent_id)
    path = path.union_all(up.where(path.c.steps < DEPARTMENT_DEPTH_MAX))
    return select(path.c.of, path.c.id).order_by(path.c.of, path.c.steps.desc())


_PATHS: Final = _paths_to(bindparam("department_ids", type_=ARRAY(Uuid)))
"""Built once: that takes longer than to ask it."""


async def find_descendants(tx: ReadSession, department_id: UUID) -> Sequence[UUID]:
    """Ids of the department and of all below it in the tree of today; none where it does not exist.

    The caller's scope is not looked at: who sees a department sees all below it.
    """
    return await store.scopes.find_covered_departments(tx, (), [department_id])
