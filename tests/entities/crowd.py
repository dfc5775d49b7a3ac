"""A large tenant, of which nobody wants to read everything, and smaller ones beside it.

Written straight into the tables; triggers and foreign keys are left aside. What is rare comes last: who reads on from
the beginning finds it there after everything else.
"""

from typing import Final
from uuid import UUID

import asyncpg

ROWS: Final = 100_000
"""Entities, departments, placements and rates of the large tenant; each of the others has 2,000."""
TERMS: Final = 20_000
"""Its rules, splits and amendments; each of the others has 1,000."""
RARE: Final = 100
"""How many of each are inactive or of a rare kind: the last ones."""
TENANT_ID: Final = UUID(int=1)
_TENANT_IDS: Final = [TENANT_ID, *(UUID(int=number) for number in range(2, 11))]
_WITHIN_S: Final = 300
_KINDS: Final = (
    "entity",
    "department",
    "rate",
    "rule",
    "target",
    "split",
    "contract",
    "amendment",
    "placement",
    "stay",
)


def id_of(kind: str, number: int) -> UUID:
    """The id of a row of the large tenant, for example of "entity" 17; ids rise with the number."""
    return UUID(f"{number:012x}70008000{TENANT_ID.int:03x}{_KINDS.index(kind):09x}")


async def gather(admin: "asyncpg.Connection") -> None:
    """Write all of it."""
    async with admin.transaction():
        await admin.execute("set local session_replication_role = 'replica'")
        await admin.execute("set local search_path = entities")
        await admin.execute(_ID_OF)
        for name, (large, small) in {"many": (ROWS, 2_000), "fewer": (TERMS, 1_000)}.items():
            counts = [large if tenant_id == TENANT_ID else small for tenant_id in _TENANT_IDS]
            await admin.execute(f"create temp table {name} (tenant uuid, n bigint, rare boolean) on commit drop")
            await admin.execute(
                f"insert into {name} select tenant, n, n > count - $3 from unnest($1::uuid[], $2::int[])"
                " as of_tenant (tenant, count), generate_series(1, count) n",
                _TENANT_IDS, counts, RARE,
            )  # fmt: skip
        for rows in _WRITTEN.values():
            await admin.execute(rows, timeout=_WITHIN_S)
    await admin.execute(f"vacuum (analyze) {', '.join(f'entities.{table}' for table in _WRITTEN)}", timeout=_WITHIN_S)


_ID_OF: Final = f"""
    create function pg_temp.id_of(kind text, number bigint, tenant uuid) returns uuid language sql immutable as $$
        select (lpad(to_hex(number), 12, '0') || '70008000' || right(tenant::text, 3)
            || lpad(to_hex(array_position(array{list(_KINDS)}, kind) - 1), 9, '0'))::uuid
    $$"""
_WRITTEN: Final = {
    "billing_entities": """
        insert into billing_entities
        select tenant, pg_temp.id_of('entity', n, tenant),
            case when n > 1 then pg_temp.id_of('entity', n / 10 + 1, tenant) end, 'E' || n,
            'Acme ' || md5(n::text) || ' SE', case when n % 3 = 0 then 'Acme ' || n else '' end,
            case when rare then 'BRANCH' when n % 20 = 0 then 'DIVISION' else 'SUBSIDIARY' end, 'EUR', 'DE', '', '', 0,
            null, 'UTC', 1, 30, 'E' || n, 'INCLUDE', case when rare then 'INACTIVE' else 'ACTIVE' end,
            '{}', 1, now(), now()
        from many""",
    "entity_history": """
        insert into entity_history
        select tenant, pg_temp.id_of('stay', n, tenant), pg_temp.id_of('entity', n, tenant),
            case when n > 1 then pg_temp.id_of('entity', n / 10 + 1, tenant) end, now() - interval '1 year', null, now()
        from many""",
    "departments": """
        insert into departments
        select tenant, pg_temp.id_of('department', n, tenant), pg_temp.id_of('entity', n / 20 + 1, tenant),
            case when n % 20 <> 0 then pg_temp.id_of('department', n - n % 20 + n % 20 / 4, tenant) end, 'D' || n,
            'Unit ' || n, 'CC' || n % 1000, '', 'user-' || n % 2000, 1,
            case when rare then 'INACTIVE' else 'ACTIVE' end, 1, now(), now()
        from many""",
    "department_history": """
        insert into department_history
        select tenant, pg_temp.id_of('placement', n, tenant), pg_temp.id_of('department', n, tenant),
            case when n % 20 <> 0 then pg_temp.id_of('department', n - n % 20 + n % 20 / 4, tenant) end,
            date '2020-01-01' + (n % 1000)::int, null, now()
        from many""",
    "exchange_rates": """
        insert into exchange_rates
        select tenant, pg_temp.id_of('rate', n, tenant), 'AA' || chr(65 + n::int % 5), 'ZZ' || chr(65 + n::int / 5 % 8),
            date '2020-01-01' + n::int / 40, 1.1, 'ECB', 1, now(), now()
        from many""",
    "allocation_rules": """
        insert into allocation_rules
        select tenant, pg_temp.id_of('rule', n, tenant), 'Rent',
            case when rare then 'EVEN' else 'FIXED_PERCENT' end, null, '', '',
            case when n % 2 = 0 then pg_temp.id_of('department', n, tenant) end, 'category ' || n % 500,
            '2020-01-01', null, case when rare then 'ENDED' else 'ACTIVE' end, 1, now(), now()
        from fewer""",
    "allocation_rule_targets": """
        insert into allocation_rule_targets
        select tenant, pg_temp.id_of('target', n, tenant), pg_temp.id_of('rule', n, tenant), 0,
            pg_temp.id_of('department', n + 1, tenant), 10000, null, now()
        from fewer""",
    "cost_splits": """
        insert into cost_splits
        select tenant, pg_temp.id_of('split', n, tenant), 'bill ' || n, pg_temp.id_of('rule', n % 400 + 1, tenant), 1,
            'EVEN', null, 1, 'EUR', date '2020-01-01' + n::int / 10, '', '', '', null, null, null, null, '[]',
            array[pg_temp.id_of('department', n, tenant)], now()
        from fewer""",
    "contract_amendments": """
        insert into contract_amendments
        select tenant, pg_temp.id_of('amendment', n, tenant), pg_temp.id_of('contract', n / 20, tenant), n % 20 + 1,
            case when rare then 'SCOPE' else 'PRICE' end, '2020-01-01', 'EUR', '{"before": {}, "after": {}}', '{}',
            'as agreed', 'DRAFT', '', null, null, '', 1, now(), now()
        from fewer""",
}  # fmt: skip
