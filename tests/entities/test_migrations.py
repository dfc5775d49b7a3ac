from collections.abc import Awaitable, Callable
from datetime import date

import asyncpg
import pytest
from alembic import command

from kit import ids
from tests.harness.databases import Copy
from tests.harness.migrations import layout, migrate


async def test_downgrade_and_upgrade_with_rows(fresh_database: Callable[[], Awaitable[Copy]]) -> None:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    try:
        await admin.execute("set search_path = entities")
        before = await layout(admin, "entities")
        await _fill(admin)
        await _fill_allocation_rules(admin)
        await _fill_allocations(admin)
        await _fill_contracts(admin)
        await _fill_billing(admin)
        await _fill_invoices(admin)
        await migrate(copy, "entities", command.downgrade, "base")
        left = "select relname from pg_class where relnamespace = 'entities'::regnamespace and relkind = 'r'"
        assert [row[0] for row in await admin.fetch(left)] == ["alembic_version"]
        await migrate(copy, "entities", command.upgrade, "head")
        assert await layout(admin, "entities") == before
        await _fill(admin)
    finally:
        await admin.close()


async def test_existing_entities_get_a_history_since_creation(
    fresh_database: Callable[[], Awaitable[Copy]],
) -> None:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    try:
        await admin.execute("set search_path = entities")
        await migrate(copy, "entities", command.downgrade, "0002")
        await _fill(admin)
        await _fill(admin)  # for another tenant
        await migrate(copy, "entities", command.upgrade, "head")
        query = "select tenant_id, entity_id, parent_id, start_time, end_time from entity_history order by tenant_id"
        expected = "select tenant_id, id, parent_id, create_time, null from billing_entities order by tenant_id"
        assert [tuple(row) for row in await admin.fetch(query)] == [tuple(row) for row in await admin.fetch(expected)]
        assert await admin.fetchval("select count(*) from entity_history") == 2
    finally:
        await admin.close()


async def test_enums_keep_their_values_as_text_and_back(
    fresh_database: Callable[[], Awaitable[Copy]],
) -> None:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    columns = (
        "select table_name || ' ' || column_name || ' ' || udt_name from information_schema.columns"
        " where table_schema = 'entities' and table_name in ('billing_entities', 'departments')"
        " and column_name in ('entity_type', 'state') order by 1"
    )
    indexes = "select indexdef from pg_indexes where schemaname = 'entities' order by 1"
    values = (
        "select e.entity_type::text, e.state::text, d.state::text from billing_entities e"
        " join departments d on d.entity_id = e.id order by d.parent_id"
    )
    expected_values = [("HOLDING", "ACTIVE", "ACTIVE")] * 2
    try:
        await admin.execute("set search_path = entities")
        await _fill(admin)
        before = await admin.fetch(indexes)
        await migrate(copy, "entities", command.downgrade, "0007")
        assert [row[0] for row in await admin.fetch(columns)] == [
            "billing_entities entity_type entity_type", "billing_entities state entity_state",
            "departments state department_state",
        ]  # fmt: skip
        assert [tuple(row) for row in await admin.fetch(values)] == expected_values
        await migrate(copy, "entities", command.upgrade, "head")
        assert {row[0].rpartition(" ")[2] for row in await admin.fetch(columns)} == {"text"}
        assert [tuple(row) for row in await admin.fetch(values)] == expected_values
        assert await admin.fetch(indexes) == before
        with pytest.raises(asyncpg.CheckViolationError, match="departments_state_check"):
            await admin.execute("update departments set state = 'GONE'")
    finally:
        await admin.close()


async def _fill(admin: asyncpg.Connection) -> None:
    tenant, entity, top, below = (ids.new() for _ in range(4))
    await admin.execute(
        "insert into billing_entities values ($1, $2, null, 'ACME', 'Acme SE', '', 'HOLDING', 'EUR', 'DE', '', '', 0,"
        " null, 'UTC', 1, 30, 'ACME', 'INCLUDE', 'ACTIVE', '{}', 1, now(), now())",
        tenant,
        entity,
    )
    await admin.execute(
        "insert into exchange_rates values ($1, $2, 'EUR', 'USD', current_date, 1.1, 'ECB', 1, now(), now())",
        tenant,
        ids.new(),
    )
    for department, parent in ((top, None), (below, top)):
        await admin.execute(
            "insert into departments values ($1, $2, $3, $4, $5, 'N', '', '', '', 0, 'ACTIVE', 1, now(), now())",
            tenant,
            department,
            entity,
            parent,
            department.hex,
        )
        await admin.execute(
            "insert into department_history values ($1, $2, $3, $4, current_date, null, now())",
            tenant,
            ids.new(),
            department,
            parent,
        )


async def _fill_allocation_rules(admin: asyncpg.Connection) -> None:
    """Insert a rule and a split for the only department."""
    rule = ids.new()
    below = await admin.fetchrow("select tenant_id, id, parent_id from departments where parent_id is not null")
    assert below
    tenant, target, source = below
    await admin.execute(
        "insert into allocation_rules values ($1, $2, 'Rent', 'EVEN', null, '', '', $3, '', current_date, null,"
        " 'ACTIVE', 1, now(), now())",
        tenant,
        rule,
        source,
    )
    await admin.execute(
        "insert into allocation_rule_targets values ($1, $2, $3, 0, $4, 0, null, now())",
        tenant,
        ids.new(),
        rule,
        target,
    )
    splits = ids.new(), ids.new()
    for sequence, split in enumerate(splits, 1):
        await admin.execute(
            "insert into cost_splits values ($1, $2, 'bill', $3, 1, 'EVEN', null, 1, 'EUR', current_date, '', '', '',"
            " $4, null, null, null, '[]', array[$5::uuid], now(), $6)",
            tenant,
            split,
            rule,
            source,
            target,
            sequence,
        )
    await admin.execute(
        "insert into cost_split_reversals values ($1, $2, $3, 'mistaken', current_date, null, 'a', now())",
        tenant,
        ids.new(),
        splits[0],
    )


async def _fill_allocations(admin: asyncpg.Connection) -> None:
    """Insert two allocations of one document, the first one reversed, and one credit of each."""
    entity = await admin.fetchrow("select tenant_id, id from billing_entities")
    assert entity
    first, reversal, second, old_credit, new_credit = (ids.new() for _ in range(5))
    for id, reversed_id, credited_id, ref, sequence, amount in (
        (first, None, None, "INV-1", 1, 3), (old_credit, None, first, "CN-1", 1, -1),
        (reversal, first, None, "INV-1", 1, -2), (second, None, None, "INV-1", 2, 3),
        (new_credit, None, second, "CN-1", 2, -1),
    ):  # fmt: skip
        await admin.execute(
            "insert into cost_allocations (tenant_id, id, entity_id, department_path, category, source, source_ref,"
            " amount, currency_code, entity_amount, entity_currency_code, unit, gl_code, allocation_date, description,"
            " reversal_of, actor, create_time, source_ref_sequence, credit_of) values ($1, $2, $3, '{}', '', 'INVOICE',"
            " $7, $4, 'EUR', $4, 'EUR', '', '', current_date, '', $5, 'a', now(), $6, $8)",
            *(entity["tenant_id"], id, entity["id"], amount, reversed_id, sequence, ref, credited_id),
        )


async def _fill_contracts(admin: asyncpg.Connection) -> None:
    """Insert a contract with a signature and a notice."""
    entity = await admin.fetchrow("select tenant_id, id from billing_entities")
    assert entity
    tenant, entity_id = entity
    contract = ids.new()
    await admin.execute(
        "insert into billing_contracts (tenant_id, id, entity_id, contract_number, name, contract_type, start_date,"
        " end_date, total_value, currency_code, billing_frequency, phases, license_tier, seats, payment_terms_days,"
        " purchase_order_number, auto_renew, renewal_term_months, renewal_notice_days, renewal_uplift_bp,"
        " license_state, license_id, license_problem, state, suspension_reason, termination_reason,"
        " terminated_for_cause, version, create_time, update_time) values ($1, $2, $3, 'C-1', 'N', 'SERVICES',"
        " current_date, current_date + 365, 1, 'EUR', 'MONTHLY', '[]', '', 0, 30, '', false, 12, 30, 0, 'NONE', '', '',"
        " 'PENDING_SIGNATURE', '', '', false, 1, now(), now())",
        tenant,
        contract,
        entity_id,
    )
    await admin.execute(
        "insert into contract_signatures values ($1, $2, $3, 'OURS', 'Ada', '', repeat('0', 64), 'a', now())",
        tenant,
        ids.new(),
        contract,
    )
    await admin.execute(
        "insert into contract_notices values ($1, $2, $3, current_date + 365, 'RENEWAL_DUE', now())",
        tenant,
        ids.new(),
        contract,
    )
    await admin.execute("insert into contract_numbers values ($1, 2026, 1)", tenant)


async def _fill_billing(admin: asyncpg.Connection) -> None:
    """Insert an issuer with a number, and a schedule with a run that found nothing to bill."""
    entity = await admin.fetchrow("select tenant_id, id from billing_entities")
    assert entity
    tenant, entity_id = entity
    profile, schedule = ids.new(), ids.new()
    await admin.execute(
        "insert into billing_profiles (tenant_id, id, name, legal_name, vat_id, registration_number, address, email,"
        " phone, contact_name, currency_code, time_zone, invoice_prefix, statement_prefix, credit_note_prefix,"
        " number_digits, vat_group_entity_ids, cross_border_treatment, default_note, payment_instructions, is_default,"
        " state, version, create_time, update_time) values ($1, $2, 'N', 'Acme SE', '', '', $3, '', '', '', 'EUR',"
        " 'UTC', 'INV-', 'ST-', 'CN-', 6, array[$4::uuid], 'REVERSE_CHARGE', '', '', true, 'ACTIVE', 1, now(), now())",
        tenant,
        profile,
        '{"country_code": "DE"}',
        entity_id,
    )
    await admin.execute("insert into number_prefixes values ($1, 'INV-', $2, 'INVOICE')", tenant, profile)
    await admin.execute("insert into number_series values ($1, $2, 'INVOICE', 2026, 'INV-', 6, 1)", tenant, profile)
    await admin.execute(
        "insert into invoice_schedules (tenant_id, id, entity_id, billing_profile_id, currency_code, rate_policy,"
        " frequency, day_of_month, time_of_day, time_zone, action, require_einvoice, active, next_period_end, version,"
        " create_time, update_time) values ($1, $2, $3, $4, '', 'PERIOD_END', 'MONTHLY', 31, '06:00', 'UTC', 'DRAFT',"
        " false, true, '2026-12-01', 1, now(), now())",
        tenant,
        schedule,
        entity_id,
        profile,
    )
    await admin.execute(
        "insert into invoice_runs (tenant_id, id, schedule_id, entity_id, period_start, period_end, due_time, state,"
        " attempts, attempt_time, invoice_number, problems, create_time) values ($1, $2, $3, $4, '2026-10-01',"
        " '2026-11-01', now(), 'NOTHING_TO_BILL', 1, now(), '', '[]', now())",
        tenant,
        ids.new(),
        schedule,
        entity_id,
    )


async def _fill_invoices(admin: asyncpg.Connection) -> None:
    """Insert a draft that was paid early, and an issued invoice with a payment, a hold and a refunded credit note."""
    profile = await admin.fetchrow("select tenant_id, id from billing_profiles")
    assert profile
    tenant, profile_id = profile
    entity_id = await admin.fetchval("select id from billing_entities where tenant_id = $1", tenant)
    draft, issued, line, note = (ids.new() for _ in range(4))
    invoice = (
        "insert into consolidated_invoices (tenant_id, id, type, number, entity_id, billing_profile_id, entity_ids,"
        " state, period_start, period_end, currency_code, rate_policy, issuer, recipient, recipient_name,"
        " purchase_order_numbers, contract_numbers, payment_terms_days, taxes, rates, problems, net, tax, total,"
        " issuer_currency_code, line_count, note, require_einvoice, paid, version, create_time, update_time)"
        " values ($1, $2, 'INVOICE', '', $3, $4, array[$3::uuid], 'DRAFT', $5::date, $5::date + 1, 'EUR', 'PERIOD_END',"
        " '{}', '{}', 'N', '{}', '{}', 14, '[]', '[]', '[]', 10, 0, 10, 'EUR', 1, '', false, $6, 1, now(), now())"
    )
    await admin.execute(invoice, tenant, draft, entity_id, profile_id, date(2026, 10, 1), 5)
    await admin.execute(invoice, tenant, issued, entity_id, profile_id, date(2026, 11, 1), 0)
    await admin.execute(
        "insert into invoice_lines (tenant_id, id, invoice_id, number, kind, entity_code, entity_name, department_name,"
        " gl_code, contract_number, description, amount, tax_treatment, tax_rate_bp, charge_ids, item_count,"
        " create_time) values ($1, $2, $3, 1, 'ROUNDING', '', '', '', '', '', '', 10, 'EXEMPT', 0, '{}', 0, now())",
        tenant,
        line,
        issued,
    )
    await admin.execute(
        "update consolidated_invoices set state = 'ISSUED', number = 'INV-1', issue_time = now(),"
        " issue_date = current_date, due_date = current_date, paid = 10, exchange_difference = 1 where id = $1",
        issued,
    )
    await admin.execute(
        "insert into invoice_payments values ($1, $2, 'pay-1', $3, 11, 'USD', null, 10, 0.9, current_date, 1,"
        " current_date, '', now())",
        tenant,
        ids.new(),
        issued,
    )
    for kind, amount in (("HELD", 4), ("CREDITED", -3)):
        await admin.execute(
            "insert into line_holds values ($1, $2, $3, $4, $5, $6, $7, 0, now())",
            tenant,
            ids.new(),
            issued,
            line,
            note,
            kind,
            amount,
        )
    await admin.execute(
        "insert into credit_notes values ($1, $2, 'CN-1', $3, 'INV-1', $4, $5, null, '{}', '{}', 'N', 'EUR', '[]', 3,"
        " 0, 3, 'EUR', null, 0, 3, 0, 1, 'R', current_date, 'a', now())",
        tenant,
        note,
        issued,
        entity_id,
        profile_id,
    )
    await admin.execute(
        "insert into credit_note_lines values ($1, $2, $3, $4, 3, now())", tenant, ids.new(), note, line
    )
    await admin.execute(
        "insert into credit_note_refunds values ($1, $2, $3, $4, null, 3, 'EUR', 'REQUESTED', null, null, '', '', 1,"
        " now(), now())",
        tenant,
        ids.new(),
        note,
        issued,
    )
