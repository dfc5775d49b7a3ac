"""A group of a thousand companies with unbilled costs, inserted directly into the tables."""

from dataclasses import dataclass
from datetime import date
from typing import Final
from uuid import UUID, uuid4

import asyncpg

CURRENCIES: Final = ("EUR", "USD", "GBP", "JPY", "CHF")
FIRST_DAY: Final = date(2026, 10, 1)
AFTER_LAST_DAY: Final = date(2026, 11, 1)


@dataclass(frozen=True, slots=True)
class BilledGroup:
    """A root and the companies below it, each with a department and a currency; the tenant has a billing profile."""

    tenant_id: UUID
    root_id: UUID
    entity_ids: list[UUID]


async def insert_billed_group(admin: "asyncpg.Connection", *, companies: int, allocations: int) -> BilledGroup:
    """Insert a group with its own tenant, and costs of October 2026 spread evenly over the companies."""
    tenant_id = uuid4()
    async with admin.transaction():
        for statement, arguments in (
            (_ENTITIES, (companies, list(CURRENCIES))),
            (_DEPARTMENTS, ()),
            (_RATES, (list(CURRENCIES), FIRST_DAY)),
            (_PROFILE, ()),
            (_PREFIXES, ()),
            (_ALLOCATIONS, (allocations, FIRST_DAY, companies)),
        ):
            await admin.execute(statement, tenant_id, *arguments, timeout=120)
    await admin.execute("analyze entities.cost_allocations, entities.unbilled_allocations, entities.billing_entities")
    rows = await admin.fetch(
        "select id from entities.billing_entities where tenant_id = $1 order by parent_id nulls first, id", tenant_id
    )
    ids = [row["id"] for row in rows]
    return BilledGroup(tenant_id, ids[0], ids)


_ENTITIES: Final = """
    with root as (select uuidv7() as id)
    insert into entities.billing_entities (
        tenant_id, id, parent_id, code, legal_name, display_name, entity_type, currency_code, country_code, tax_id,
        registration_number, tax_rate_bp, time_zone, fiscal_year_start_month, payment_terms_days, invoice_prefix,
        consolidation, state, metadata, version, create_time, update_time
    )
    select $1, case when n = 0 then root.id else uuidv7() end, case when n > 0 then root.id end, 'E' || n,
        'Company ' || n, '', 'SUBSIDIARY', ($3::text[])[1 + n % cardinality($3::text[])], 'DE', '', '',
        1900, 'UTC', 1, 30, 'E' || n, 'INCLUDE', 'ACTIVE', '{}', 1, now(), now()
    from generate_series(0, $2::int) n cross join root"""
_DEPARTMENTS: Final = """
    insert into entities.departments (
        tenant_id, id, entity_id, parent_id, code, name, cost_center, gl_code, manager_user_id, headcount, state,
        version, create_time, update_time
    )
    select $1, uuidv7(), id, null, 'D', 'Operations', 'D', '', '', 0, 'ACTIVE', 1, now(), now()
    from entities.billing_entities where tenant_id = $1"""
_RATES: Final = """
    insert into entities.exchange_rates (
        tenant_id, id, base_currency, quote_currency, effective_date, rate, source, version, create_time, update_time
    )
    select $1, uuidv7(), currency, 'EUR', $3, 0.9123 + n, 'ECB', 1, now(), now()
    from unnest($2::text[]) with ordinality as each(currency, n) where currency <> 'EUR'"""
_PROFILE: Final = """
    insert into entities.billing_profiles (
        tenant_id, id, name, legal_name, vat_id, registration_number, address, email, phone, contact_name,
        currency_code, time_zone, invoice_prefix, statement_prefix, credit_note_prefix, number_digits,
        vat_group_entity_ids, cross_border_treatment, default_note, payment_instructions, is_default, state, version,
        create_time, update_time
    )
    values ($1, uuidv7(), 'Shared', 'Shared Services GmbH', 'DE123456788', '',
        '{"lines": ["A 1"], "postal_code": "10115", "city": "Berlin", "region": "", "country_code": "DE"}', '', '', '',
        'EUR', 'UTC', 'INV-', 'STA-', 'CRE-', 6, '{}', 'STANDARD', '', '', true, 'ACTIVE', 1, now(), now())"""
_PREFIXES: Final = """
    insert into entities.number_prefixes (tenant_id, prefix, profile_id, document_type)
    select tenant_id, prefix, id, kind
    from entities.billing_profiles
    cross join (values ('INV-', 'INVOICE'), ('STA-', 'STATEMENT'), ('CRE-', 'CREDIT_NOTE')) as each(prefix, kind)
    where tenant_id = $1"""
_ALLOCATIONS: Final = """
    with bearers as (
        select department.entity_id, department.id, entity.currency_code,
            row_number() over (order by department.entity_id) - 1 as place
        from entities.departments department
        join entities.billing_entities entity on entity.tenant_id = $1 and entity.id = department.entity_id
        where department.tenant_id = $1 and entity.parent_id is not null
    )
    insert into entities.cost_allocations (
        tenant_id, id, entity_id, department_id, department_path, category, source, source_ref, amount, currency_code,
        entity_amount, entity_currency_code, quantity, unit, gl_code, allocation_date, description, actor, create_time
    )
    select $1, uuidv7(), entity_id, bearers.id, array[bearers.id], 'cloud', 'USAGE', '', 1 + n % 1000, currency_code,
        1 + n % 1000, currency_code, 1, 'GB', '60' || n / $4 % 2, $3::date + n % 31, '', 'usage', now()
    from generate_series(0, $2::int - 1) n join bearers on bearers.place = n % $4"""
