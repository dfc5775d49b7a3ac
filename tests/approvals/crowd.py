"""A large tenant with many requests, and smaller ones beside it; written straight into the tables.

What is rare comes first or last: who reads on from the newest finds the first ones after everything else.
"""

from typing import Final
from uuid import UUID

import asyncpg

ROWS: Final = 60_000
"""Requests of the large tenant; each of the others has 1,000. Half as many delegations, a thirtieth as many rules."""
RARE: Final = 100
"""The first so many are undecided, of a rare kind, and about something; the others have ended."""
TENANT_ID: Final = UUID(int=1)
_TENANT_IDS: Final = [TENANT_ID, *(UUID(int=number) for number in range(2, 11))]
_KINDS: Final = ("approval", "action", "entity", "department", "budget", "rule", "delegation")
_WITHIN_S: Final = 300


def id_of(kind: str, number: int) -> UUID:
    """The id of something of the large tenant, for example of "approval" 17; ids rise with the number."""
    return UUID(f"{number:012x}70008000{TENANT_ID.int:03x}{_KINDS.index(kind):09x}")


async def gather(admin: "asyncpg.Connection") -> None:
    """Write all of it."""
    async with admin.transaction():
        await admin.execute("set local session_replication_role = 'replica'")
        await admin.execute("set local search_path = approvals")
        await admin.execute(_ID_OF)
        counts = [ROWS if tenant_id == TENANT_ID else 1_000 for tenant_id in _TENANT_IDS]
        await admin.execute("create temp table many (tenant uuid, n bigint, rare boolean) on commit drop")
        await admin.execute(
            "insert into many select tenant, n, n <= $3"
            " from unnest($1::uuid[], $2::int[]) as of_tenant (tenant, count), generate_series(1, count) n",
            _TENANT_IDS, counts, RARE,
        )  # fmt: skip
        for rows in _WRITTEN.values():
            await admin.execute(rows, timeout=_WITHIN_S)
    tables = ", ".join(f"approvals.{table}" for table in _WRITTEN)
    await admin.execute(f"vacuum (analyze) {tables}", timeout=_WITHIN_S)


_ID_OF: Final = f"""
    create function pg_temp.id_of(kind text, number bigint, tenant uuid) returns uuid language sql immutable as $$
        select (lpad(to_hex(number), 12, '0') || '70008000' || right(tenant::text, 3)
            || lpad(to_hex(array_position(array{list(_KINDS)}, kind) - 1), 9, '0'))::uuid
    $$"""
_PANEL: Final = """jsonb_build_object('requester', 'user-' || n % 500, 'levels', '[]'::jsonb, 'steps',
    jsonb_build_array(jsonb_build_object('name', 'C', 'mode', 'ANY', 'sla_hours', 1, 'state', 'ACTIVE', 'seats',
        jsonb_build_array(jsonb_build_object('user_id', 'boss-' || n % 50, 'why', 'so')))))"""
_WRITTEN: Final = {
    "approval_requests": f"""
        insert into approval_requests
        select tenant, pg_temp.id_of('approval', n, tenant),
            case when rare then 'INVOICE' when n % 2 = 0 then 'OTHER' else 'PURCHASE' end, 'Laptops', '',
            'user-' || n % 500, pg_temp.id_of('entity', n % 300, tenant), pg_temp.id_of('department', n % 900, tenant),
            pg_temp.id_of('budget', n % 400, tenant), '', n, 'EUR', array[pg_temp.id_of('entity', n % 300, tenant)],
            array[pg_temp.id_of('department', n % 900, tenant)], '{{}}', case when rare then 'invoice' else '' end,
            case when rare then n::text else '' end, case when rare then 'PENDING' else 'APPROVED' end, 1, {_PANEL},
            null, 'NONE', '', case when rare then now() + n * interval '1 hour' end, '', '',
            case when not rare then now() end, '', '', 1, timestamptz '2026-01-01' + n * interval '1 minute', now()
        from many""",
    "approval_actions": """
        insert into approval_actions
        select tenant, pg_temp.id_of('action', n, tenant), pg_temp.id_of('approval', n / 2, tenant), 1, n % 2,
            case when n % 2 = 0 then 'REQUEST' else 'APPROVE' end, 'user-' || n % 500, '', '', '', now()
        from many""",
    "approval_seats": """
        insert into approval_seats
        select tenant, pg_temp.id_of('approval', n, tenant), 1, case when n % 2 = 0 then 'boss-' || n % 50 else '' end,
            case when n % 2 = 0 then '' else 'finance' end
        from many where rare""",
    "approval_rules": """
        insert into approval_rules
        select tenant, pg_temp.id_of('rule', n, tenant), 'Rule ' || n, 0,
            case when rare then 'INVOICE' else 'OTHER' end, n, null, 'EUR', case when rare then 'ladder' else '' end,
            '{}', '{}', '{}', '', '[{}]', 'SEQUENTIAL', false,
            false, 'EXPIRED', null, false, case when n % 100 = 0 then 'PAUSED' when n % 2 = 0 then 'DELETED'
            else 'ACTIVE' end, 1, 1, now(), now()
        from many where n <= 2000""",
    "delegations": """
        insert into delegations
        select tenant, pg_temp.id_of('delegation', n, tenant), 'user-' || n % 500, 'boss-' || n % 50,
            now() - (60000 - n) * interval '1 hour', now() - (59900 - n) * interval '1 hour', '', 'root', null, 1,
            now(), now()
        from many where n % 2 = 0""",
}
