"""SQL for departments and their current tree."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, BindParameter, Select, Uuid, any_, bindparam, literal, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from kit.db import ReadSession, WriteSession, constraint_name, found, scope_filter
from services.entities import store
from services.entities.domain.departments import DEPARTMENT_DEPTH_MAX, DepartmentFilter
from services.entities.errors.departments import DepartmentCodeTaken, DepartmentNotFound
from services.entities.models.entities import DepartmentRow
from serving.pages import Page, Slice

_BATCH: Final = 500


def _visible(tx: ReadSession) -> Select[DepartmentRow]:
    """Select the departments that the caller may see."""
    covered = scope_filter(tx.scope, DepartmentRow.entity_id, DepartmentRow.id)
    return select(DepartmentRow) if covered is None else select(DepartmentRow).where(covered)


async def get(tx: ReadSession, department_id: UUID) -> DepartmentRow:
    """Return the department. Raises DepartmentNotFound."""
    query = _visible(tx).where(DepartmentRow.id == department_id)
    return found(await tx.one_or_none(query), DepartmentNotFound(department_id))


async def get_entity_id(tx: ReadSession, department_id: UUID) -> UUID:
    """Return the entity of the department, which never changes. Raises DepartmentNotFound."""
    query = _visible(tx).where(DepartmentRow.id == department_id).with_only_columns(DepartmentRow.entity_id)
    return found(await tx.one_or_none(query), DepartmentNotFound(department_id))


async def lock(tx: WriteSession, department_id: UUID) -> DepartmentRow:
    """Return the department, locked until the transaction ends. Raises DepartmentNotFound."""
    query = _visible(tx).where(DepartmentRow.id == department_id).with_for_update(key_share=True)
    return found(await tx.one_or_none(query), DepartmentNotFound(department_id))


async def lock_shared(tx: WriteSession, department_id: UUID) -> DepartmentRow:
    """Return the department, protected from changes until the transaction ends. Raises DepartmentNotFound."""
    query = _visible(tx).where(DepartmentRow.id == department_id).with_for_update(read=True)
    return found(await tx.one_or_none(query), DepartmentNotFound(department_id))


async def lock_managed_by(tx: WriteSession, manager_user_id: str) -> Sequence[DepartmentRow]:
    """Return departments that the user manages, oldest first, at most 500, locked until the transaction ends."""
    query = select(DepartmentRow).where(DepartmentRow.manager_user_id == manager_user_id)
    return await tx.all(query.order_by(DepartmentRow.id).limit(_BATCH).with_for_update(key_share=True))


async def save(tx: WriteSession, department: DepartmentRow) -> None:
    """Write a new or changed department; the row then has its id and etag. Raises DepartmentCodeTaken."""
    entity_id, code = department.entity_id, department.code  # a failed flush expires the row
    tx.add(department)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "departments_code_key":
            raise DepartmentCodeTaken(entity_id, code) from error
        raise


async def list_page(tx: ReadSession, page: Page, filters: DepartmentFilter) -> Slice[DepartmentRow]:
    """Return one page of the departments that match all filters, oldest first."""
    query = _visible(tx)
    if filters.entity_id is not None:
        query = query.where(DepartmentRow.entity_id == filters.entity_id)
    if filters.parent_id is not None:
        query = query.where(DepartmentRow.parent_id == filters.parent_id)
    if filters.manager_user_id:
        query = query.where(DepartmentRow.manager_user_id == filters.manager_user_id)
    if filters.cost_center:
        query = query.where(DepartmentRow.cost_center == filters.cost_center)
    if filters.state is not None:
        query = query.where(DepartmentRow.state == filters.state)
    return await page.fetch(tx, query, DepartmentRow.id)


async def list_by_ids(tx: ReadSession, department_ids: Collection[UUID]) -> Sequence[DepartmentRow]:
    """Return the departments with these ids that the caller may see, oldest first."""
    query = _visible(tx).where(DepartmentRow.id.in_(department_ids))
    return await tx.all(query.order_by(DepartmentRow.id))


async def list_by_ids_unscoped(tx: ReadSession, department_ids: Collection[UUID]) -> Sequence[DepartmentRow]:
    """Return the departments with these ids, oldest first, also outside of the caller's scope."""
    return await tx.all(select(DepartmentRow).where(DepartmentRow.id.in_(department_ids)).order_by(DepartmentRow.id))


async def find_paths(tx: ReadSession, department_ids: Collection[UUID]) -> Mapping[UUID, Sequence[UUID]]:
    """Return the path to each department in the current tree: the ids from the top down to itself.

    Departments that don't exist are left out. The caller's scope is ignored.
    """
    paths: dict[UUID, list[UUID]] = {}
    for department_id, id in await tx.rows(_PATHS, department_ids=list(department_ids)):
        paths.setdefault(department_id, []).append(id)
    return paths


def _paths_to(department_ids: BindParameter[Any]) -> Select[UUID, UUID]:
    above = aliased(DepartmentRow)
    start = select(DepartmentRow.id.label("of"), DepartmentRow.id, DepartmentRow.parent_id, literal(0).label("steps"))
    path = start.where(DepartmentRow.id == any_(department_ids)).cte("path", recursive=True)
    up = select(path.c.of, above.id, above.parent_id, path.c.steps + 1).join(path, above.id == path.c.parent_id)
    path = path.union_all(up.where(path.c.steps < DEPARTMENT_DEPTH_MAX))
    return select(path.c.of, path.c.id).order_by(path.c.of, path.c.steps.desc())


_PATHS: Final = _paths_to(bindparam("department_ids", type_=ARRAY(Uuid)))
"""Built once, since building the query takes longer than running it."""


async def find_descendants(tx: ReadSession, department_id: UUID) -> Sequence[UUID]:
    """Return the ids of the department and of all departments below it in the current tree; empty if it doesn't exist.

    The caller's scope is ignored, since it covers everything below a department that it covers.
    """
    return await store.scopes.find_covered_departments(tx, (), [department_id])
