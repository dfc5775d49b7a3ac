"""Migrations of a database with rows in it, of several tenants, under forced row-level security."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
from alembic import command

from kit import ids
from tests.harness.databases import Copy
from tests.harness.migrations import layout, migrate


async def test_rows_of_the_first_revision_are_migrated(
    fresh_database: Callable[[], Awaitable[Copy]],
) -> None:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    try:
        await admin.execute("set search_path = budgets")
        await migrate(copy, "budgets", command.downgrade, "0001")
        for _ in range(2):
            await _fill(admin)
        await migrate(copy, "budgets", command.upgrade, "head")
        for budget in await admin.fetch("select * from budgets"):
            assert budget["period_start_time"] == datetime(2025, 12, 31, 23, tzinfo=UTC)
            assert (budget["anchor_date"], budget["held"]) == (budget["period_start"], Decimal(0))
        entries = await admin.fetch("select * from budget_entries")
        assert [(row["moved_spent"], row["moved_amount"], row["chain_held"]) for row in entries] == [
            (Decimal(80), Decimal(0), [Decimal(0)])
        ] * 2
        assert [row["used"] for row in await admin.fetch("select used from budget_alerts")] == [Decimal(80)] * 2
        current = "select id from budgets where state = 'ACTIVE' and period_end_time > now() order by id"
        with_timer = "select resource_id from timers where kind = 'forecast' order by resource_id"
        assert await admin.fetch(with_timer) == await admin.fetch(current)
        await migrate(copy, "budgets", command.downgrade, "base")
        tables = "select relname from pg_class where relnamespace = 'budgets'::regnamespace and relkind = 'r'"
        assert [row[0] for row in await admin.fetch(tables)] == ["alembic_version"]
        await migrate(copy, "budgets", command.upgrade, "head")
    finally:
        await admin.close()


async def test_enum_columns_become_text_and_back_with_their_rows(
    fresh_database: Callable[[], Awaitable[Copy]],
) -> None:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    types = "select data_type from information_schema.columns where table_schema = 'budgets' and column_name = 'state'"
    rows = (
        "select b.state::text, b.overspend_policy::text, e.entry_type::text, e.verdict::text, a.alert_type::text,"
        " a.state::text from budgets b join budget_entries e on e.budget_id = b.id join budget_alerts a"
        " on a.budget_id = b.id"
    )
    try:
        await admin.execute("set search_path = budgets")
        await migrate(copy, "budgets", command.downgrade, "0001")
        await _fill(admin)
        await migrate(copy, "budgets", command.upgrade, "head")
        head = await layout(admin, "budgets")
        for revision, data_type in (("0005", "USER-DEFINED"), ("head", "text")):
            direction = command.downgrade if revision == "0005" else command.upgrade
            await migrate(copy, "budgets", direction, revision)
            assert {row["data_type"] for row in await admin.fetch(types)} == {data_type}
            (row,) = await admin.fetch(rows)
            assert tuple(row) == ("ACTIVE", "BLOCK", "CHARGE", "ACCEPTED", "THRESHOLD", "OPEN")
        assert await layout(admin, "budgets") == head
        assert await admin.fetchval("select count(*) from pg_type where typname = 'hold_state'") == 0
    finally:
        await admin.close()


async def test_keys_of_moved_rpcs_keep_their_replies(fresh_database: Callable[[], Awaitable[Copy]]) -> None:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    stored = "select method, key, reply from budgets.idempotency_keys order by method"
    package = "billing.budgets.v1."
    old = [f"{package}BudgetService/{method}" for method in ("AcknowledgeAlert", "Charge", "CreateBudget")]
    new = [f"{package}{name}" for name in ("AlertService/AcknowledgeAlert", "BudgetService/CreateBudget")]
    try:
        await migrate(copy, "budgets", command.downgrade, "0006")
        for method in old:
            await admin.execute(
                "insert into budgets.idempotency_keys (tenant_id, method, key, fingerprint, reply)"
                " values ($1, $2, 'po-1', 'f', $3)",
                ids.new(), method, method.encode(),
            )  # fmt: skip
        before = await admin.fetch(stored)
        await migrate(copy, "budgets", command.upgrade, "0007")
        assert [row["method"] for row in await admin.fetch(stored)] == [*new, f"{package}LedgerService/Charge"]
        await migrate(copy, "budgets", command.downgrade, "0006")
        assert await admin.fetch(stored) == before
        await migrate(copy, "budgets", command.upgrade, "head")
    finally:
        await admin.close()


async def _fill(admin: asyncpg.Connection) -> None:
    tenant, entity, budget, charge = (ids.new() for _ in range(4))
    await admin.execute("insert into budget_owners values ($1, $2, false, now())", tenant, entity)
    await admin.execute(
        "insert into budgets (tenant_id, id, entity_id, ancestor_ids, name, category, gl_code, period_type,"
        " period_start, period_end, time_zone, currency_code, amount, spent, overspend_policy, tolerance_bp,"
        " alert_thresholds_bp, ledger_version, state, version, create_time, update_time) values ($1, $2, $3, '{}',"
        " 'Cloud', '', '', 'ANNUAL', '2026-01-01', '2027-01-01', 'Europe/Berlin', 'EUR', 100, 80, 'BLOCK', 0, '{8000}',"
        " 1, 'ACTIVE', 1, now(), now())",
        tenant,
        budget,
        entity,
    )
    await admin.execute(
        "insert into budget_entries values ($1, $2, 'CHARGE', $3, array[$3::uuid], '{1}', '{100}', '{80}', 80, 'EUR',"
        " 'ACCEPTED', 'k', '', '', 'alice', now(), now())",
        tenant,
        charge,
        budget,
    )
    await admin.execute(
        "insert into budget_alerts values ($1, $2, $3, 'THRESHOLD', 8000, 8000, 'EUR', 100, 80, $4, 'OPEN', 1, now(),"
        " now())",
        tenant,
        ids.new(),
        budget,
        charge,
    )


async def test_rollovers_before_the_soft_close_get_their_terms(fresh_database: Callable[[], Awaitable[Copy]]) -> None:
    copy = await fresh_database()
    admin = await asyncpg.connect(copy.admin_url)
    query = (
        "select period_number, state, late_posting_days, carried_forward, moved_holds, next_amount from budgets"
        " order by tenant_id, period_number"
    )
    try:
        await admin.execute("set search_path = budgets")
        await migrate(copy, "budgets", command.downgrade, "0008")
        for _ in range(2):
            await _fill_rolled_over(admin)
        await migrate(copy, "budgets", command.upgrade, "head")
        first = (0, "CLOSED", 5, Decimal(60), Decimal(25), Decimal(100))
        second = (1, "CLOSING", 5, Decimal(0), Decimal(0), Decimal(70))  # it was reopened
        assert [tuple(row) for row in await admin.fetch(query)] == [
            first,
            second,
            (2, "ACTIVE", 5, None, None, None),
        ] * 2
        await migrate(copy, "budgets", command.downgrade, "0008")
        states = await admin.fetch("select state from budgets order by tenant_id, period_number")
        assert [row["state"] for row in states] == ["CLOSED", "CLOSED", "ACTIVE"] * 2
        await migrate(copy, "budgets", command.upgrade, "head")
    finally:
        await admin.close()


async def _fill_rolled_over(admin: asyncpg.Connection) -> None:
    """Insert three periods: 60 and holds of 25 went from the first to the second, and nothing to the third."""
    tenant, entity, *budgets = (ids.new() for _ in range(5))
    await admin.execute("insert into budget_owners values ($1, $2, false, now())", tenant, entity)
    states = ("CLOSED", "ACTIVE", "ACTIVE")
    for number, (id, state, amount) in enumerate(zip(budgets, states, (100, 100, 70), strict=True)):
        await admin.execute(
            "insert into budgets (tenant_id, id, entity_id, ancestor_ids, name, category, gl_code, period_type,"
            " period_start, period_end, period_start_time, period_end_time, anchor_date, time_zone, currency_code,"
            " amount, carried, spent, overspend_policy, tolerance_bp, alert_thresholds_bp, ledger_version, state,"
            " version, create_time, update_time, period_number, previous_id) values ($1, $2, $3, '{}', 'Cloud', '', '',"
            " 'ANNUAL', '2026-01-01', '2027-01-01', '2026-01-01Z', '2027-01-01Z', '2026-01-01', 'UTC', 'EUR', $4, 0, 0,"
            " 'BLOCK', 0, '{8000}', 2, $5, 1, now(), now(), $6, $7)",
            tenant,
            id,
            entity,
            amount,
            state,
            number,
            budgets[number - 1] if number else None,
        )
    entries: list[tuple[int, int, str, int, int, int, int]] = [
        (0, 1, "ROLLOVER_OUT", 1, 40, -60, 0), (0, 1, "ROLLOVER_OUT", 2, 40, 0, -25),
        (1, 0, "ROLLOVER_IN", 1, 160, 60, 0), (1, 0, "ROLLOVER_IN", 2, 160, 0, 25),
        (2, 1, "ROLLOVER_IN", 1, 70, 0, 0),
    ]  # fmt: skip
    for budget, other, kind, version, total, moved, held in entries:
        await admin.execute(
            "insert into budget_entries (tenant_id, id, entry_type, budget_id, chain_ids, chain_versions,"
            " chain_amounts, chain_spent, chain_held, chain_committed, amount, currency_code, moved_amount, moved_held,"
            " counterpart_id, description, reference, actor, charge_time, create_time) values ($1, $2, $3, $4,"
            " array[$4::uuid], array[$5::int], array[$6::numeric], '{0}', '{0}', '{0}', 0, 'EUR', $7, $8, $9, '', '',"
            " 'alice', now(), now())",
            tenant,
            ids.new(),
            kind,
            budgets[budget],
            version,
            total,
            moved,
            held,
            budgets[other],
        )
