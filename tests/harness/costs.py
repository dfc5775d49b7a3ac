"""Two years of cost allocations of a group, inserted directly into the tables: a million rows in seconds."""

from dataclasses import dataclass
from datetime import date
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from kit import ids

FIRST_DAY: Final = date(2025, 1, 1)
AFTER_LAST_DAY: Final = date(2027, 1, 1)
_ENTITIES: Final = 40
_MIDDLE_COUNT: Final = 4
_LOWEST_COUNT: Final = 5
_TIMEOUT_S: Final = 300


@dataclass(frozen=True, slots=True)
class Group:
    """Entities of a tenant, each with three levels of departments: one, four below it, five below each of the four."""

    tenant_id: UUID
    entity_ids: list[UUID]
    top_ids: list[UUID]
    """One per entity; the other lists have the same order."""
    middle_ids: list[list[UUID]]
    lowest_ids: list[list[UUID]]


async def insert_group(admin: "asyncpg.Connection", *, entities: int = _ENTITIES) -> Group:
    """Insert a new group with its own tenant."""
    group = Group(uuid4(), [], [], [], [])
    for number in range(entities):
        entity_id, top_id = ids.new(), ids.new()
        await admin.execute(
            "insert into entities.billing_entities (tenant_id, id, parent_id, code, legal_name, display_name,"
            " entity_type, currency_code, country_code, tax_id, registration_number, tax_rate_bp, time_zone,"
            " fiscal_year_start_month, payment_terms_days, invoice_prefix, consolidation, state, metadata, version,"
            " create_time, update_time) values ($1, $2, null, $3, $3, '', 'SUBSIDIARY', 'EUR', 'DE', '', '', 0, 'UTC',"
            " 1, 30, $3, 'INCLUDE', 'ACTIVE', '{}', 1, now(), now())",
            group.tenant_id, entity_id, f"E{number}",
        )  # fmt: skip
        middle_ids = [ids.new() for _ in range(_MIDDLE_COUNT)]
        lowest_ids = [ids.new() for _ in range(_MIDDLE_COUNT * _LOWEST_COUNT)]
        parents = [
            None,
            *[top_id] * _MIDDLE_COUNT,
            *[middle_ids[place // _LOWEST_COUNT] for place in range(len(lowest_ids))],
        ]
        for place, id in enumerate([top_id, *middle_ids, *lowest_ids]):
            await admin.execute(
                "insert into entities.departments (tenant_id, id, entity_id, parent_id, code, name, cost_center,"
                " gl_code, manager_user_id, headcount, state, version, create_time, update_time)"
                " values ($1, $2, $3, $4, $5, 'N', $5, '', $5, 0, 'ACTIVE', 1, now(), now())",
                group.tenant_id, id, entity_id, parents[place], f"D{place}",
            )  # fmt: skip
        group.entity_ids.append(entity_id)
        group.top_ids.append(top_id)
        group.middle_ids.append(middle_ids)
        group.lowest_ids.append(lowest_ids)
    return group


async def insert_allocations(admin: "asyncpg.Connection", group: Group, count: int) -> None:
    """Insert `count` allocations to the lowest departments, spread evenly over the days: 1.00 EUR, or 2.00 USD.

    Ids rise with the day, as if posted then. Every fifth one is in USD, every third one has a source reference.
    Triggers and foreign keys are disabled, and the indexes are rebuilt.
    """
    departments = _department_columns(group)
    async with admin.transaction():
        await admin.execute("set local session_replication_role = 'replica'")
        await admin.execute("set local maintenance_work_mem = '256MB'")
        indexes = await _drop_indexes(admin)
        await admin.execute(_SPEND, group.tenant_id, count, FIRST_DAY, *departments, AFTER_LAST_DAY, timeout=_TIMEOUT_S)
        for definition in indexes:
            await admin.execute(definition, timeout=_TIMEOUT_S)
        await admin.execute(_POSTED, group.tenant_id)
    await admin.execute("vacuum (analyze) entities.cost_allocations", timeout=_TIMEOUT_S)
    await admin.execute("analyze entities.posted_departments, entities.departments, entities.billing_entities")


def _department_columns(group: Group) -> tuple[list[UUID], list[UUID], list[UUID], list[UUID]]:
    """Return columns with the entity, top, middle and lowest department of each lowest department."""
    rows = [
        (entity_id, group.top_ids[number], group.middle_ids[number][place // _LOWEST_COUNT], id)
        for number, entity_id in enumerate(group.entity_ids)
        for place, id in enumerate(group.lowest_ids[number])
    ]
    entity, top, middle, lowest = (list(column) for column in zip(*rows, strict=True))
    return entity, top, middle, lowest


async def _drop_indexes(admin: "asyncpg.Connection") -> list[str]:
    """Drop the indexes without a constraint; return the statements that create them."""
    indexes = await admin.fetch(
        "select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition from pg_index"
        " where indrelid = 'entities.cost_allocations'::regclass and not exists"
        " (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u'))"
    )
    for row in indexes:
        await admin.execute(f"drop index {row['name']}")
    return [row["definition"] for row in indexes]


_SPEND: Final = """
    insert into entities.cost_allocations (
        tenant_id, id, entity_id, department_id, department_path, category, source, source_ref, amount, currency_code,
        entity_amount, entity_currency_code, rate, rate_date, quantity, unit, gl_code, counterparty_entity_id,
        allocation_date, description, reversal_of, actor, create_time
    )
    select $1, (lpad(to_hex((extract(epoch from posted) * 1000)::bigint), 12, '0') || '7' || substr(digest, 1, 3)
            || '8' || substr(digest, 4, 15))::uuid,
        ($4::uuid[])[bearer], ($7::uuid[])[bearer],
        array[($5::uuid[])[bearer], ($6::uuid[])[bearer], ($7::uuid[])[bearer]],
        'category ' || n % 12, 'USAGE', case when n % 3 = 0 then 'record ' || n else '' end,
        case when n % 5 = 0 then 2 else 1 end, case when n % 5 = 0 then 'USD' else 'EUR' end, 1, 'EUR',
        case when n % 5 = 0 then 0.5 end, case when n % 5 = 0 then posted::date end, n % 100, 'GB', '60' || n % 8, null,
        posted::date, 'What it was for', null, 'usage', posted
    from generate_series(1, $2::int) n
    cross join lateral (
        select 1 + n / 7 % cardinality($4::uuid[]) as bearer, md5(n::text) as digest,
            $3::date + (n - 1) * (($8::date - $3) * interval '1 day' / $2) as posted
    ) of_n"""
_POSTED: Final = """
    insert into entities.posted_departments (tenant_id, ancestor_id, department_id)
    select distinct tenant_id, unnest(department_path), department_id
    from (select distinct tenant_id, department_path, department_id from entities.cost_allocations where tenant_id = $1)
        as posted"""
