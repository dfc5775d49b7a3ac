"""Many entities and departments with their past, rates, rules, splits and amendments.

The rare ones come last: inactive, or of a rare kind.
"""

from typing import Final

from tests.harness.bulk_data import BulkData

ROWS: Final = 100_000
"""Entities, departments, placements and rates of the large tenant."""
TERMS: Final = 20_000
"""Its rules, splits and amendments."""

_TABLES: Final = {
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
BULK_DATA: Final = BulkData(
    schema="entities",
    kinds=("entity", "department", "rate", "rule", "target", "split", "contract", "amendment", "placement", "stay"),
    sizes={"many": (ROWS, 2_000), "fewer": (TERMS, 1_000)},
    rare_first=False,
    tables=_TABLES,
)
id_of: Final = BULK_DATA.id_of
