"""Many companies of a tenant, as copies of one entity with a department."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg
from billing.entities.v1.entity_pb2 import Entity

from kit import ids

_COPIES: Final = """
    create temp table copies on commit drop as
    select gen_random_uuid() as entity_id, gen_random_uuid() as department_id, 'C' || n as code,
        ($2::uuid[])[1 + n % cardinality($2)] as parent_id, ($3::text[])[1 + n % cardinality($3)] as currency_code
    from generate_series(1, $1::int) n"""
_INSERTS: Final = (
    """insert into billing_entities
    select (jsonb_populate_record(original, jsonb_build_object('id', copies.entity_id, 'code', copies.code,
        'parent_id', copies.parent_id, 'currency_code', copies.currency_code))).*
    from copies, billing_entities original where original.tenant_id = $1 and original.id = $2""",
    """insert into entity_history
    select (jsonb_populate_record(original, jsonb_build_object('id', gen_random_uuid(),
        'entity_id', copies.entity_id, 'parent_id', copies.parent_id))).*
    from copies, entity_history original where original.tenant_id = $1 and original.entity_id = $2""",
    """insert into departments
    select (jsonb_populate_record(original, jsonb_build_object('id', copies.department_id,
        'entity_id', copies.entity_id))).*
    from copies, departments original where original.tenant_id = $1 and original.entity_id = $2""",
    """insert into department_history
    select (jsonb_populate_record(original, jsonb_build_object('id', gen_random_uuid(),
        'department_id', copies.department_id))).*
    from copies, department_history original join departments department on department.id = original.department_id
    where original.tenant_id = $1 and department.tenant_id = $1 and department.entity_id = $2""",
)


async def copy_company(
    admin: "asyncpg.Pool[asyncpg.Record]",
    tenant_id: UUID,
    company: Entity,
    *,
    count: int,
    parents: Sequence[Entity],
    currencies: Sequence[str],
) -> Sequence[tuple[str, str]]:
    """Copy an entity that has one department, to below each parent in turn; return the new entities and departments."""
    parent_ids = [ids.ENTITY.parse(parent.id) for parent in parents]
    async with admin.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = 'replica'")  # without triggers
        await connection.execute("set local search_path = entities")
        await connection.execute(_COPIES, count, parent_ids, list(currencies))
        for statement in _INSERTS:
            await connection.execute(statement, tenant_id, ids.ENTITY.parse(company.id))
        rows = await connection.fetch("select entity_id, department_id from copies")
    return [(ids.ENTITY.format(row["entity_id"]), ids.DEPARTMENT.format(row["department_id"])) for row in rows]
