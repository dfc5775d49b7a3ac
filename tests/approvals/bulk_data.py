"""Bulk data of approvals: requests, their history and pending slots, rules and delegations.

The rare requests have the lowest ids. They are pending, of a rare type, and have a subject; all others have ended.
"""

from typing import Final

from tests.harness.bulk_data import BulkData

ROWS: Final = 60_000
"""Requests of the large tenant. It has half as many delegations and 2,000 rules."""

_PANEL: Final = """jsonb_build_object('requester', 'user-' || n % 500, 'levels', '[]'::jsonb, 'steps',
    jsonb_build_array(jsonb_build_object('name', 'C', 'mode', 'ANY', 'sla_hours', 1, 'state', 'ACTIVE', 'seats',
        jsonb_build_array(jsonb_build_object('user_id', 'boss-' || n % 50, 'why', 'so')))))"""
_TABLES: Final = {
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
BULK_DATA: Final = BulkData(
    schema="approvals",
    kinds=("approval", "action", "entity", "department", "budget", "rule", "delegation"),
    sizes={"many": (ROWS, 1_000)},
    rare_first=True,
    tables=_TABLES,
)
id_of: Final = BULK_DATA.id_of
