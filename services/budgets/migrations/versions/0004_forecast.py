"""Forecasts: the ledger version of the last check, and the indexes that forecasts and summaries read."""

from alembic import op

from deploy import ddl

revision = "0004"
down_revision = "0003"

_SLOW = "require-concurrent-index-creation, require-concurrent-index-deletion"


def _briefly(*statements: str) -> None:
    """Run statements that scan a table that is still small; they stop waiting for a lock after 300 ms."""
    for statement in statements:
        op.execute(f"-- squawk-ignore {_SLOW}\n{statement}")


def upgrade() -> None:
    op.execute("alter table budgets add forecast_version integer")
    _briefly(
        # An index-only scan reads the spend by day. The old index is replaced: one more would slow down every charge.
        "drop index budget_entries_budget_idx",
        "create index budget_entries_budget_idx on budget_entries (tenant_id, budget_id, id)"
        " include (charge_time, moved_spent)",
        "create index budget_entries_converted_idx on budget_entries (tenant_id, budget_id)"
        " where original_currency is not null",
    )
    with ddl.of_all_tenants("budgets"), ddl.of_all_tenants("timers"):
        op.execute("""
            insert into timers (tenant_id, kind, resource_id, due_time)
            select tenant_id, 'forecast', id, now() + random() * interval '1 day' from budgets
            where state = 'ACTIVE' and period_end_time > now()""")


def downgrade() -> None:
    with ddl.of_all_tenants("timers"):
        op.execute("delete from timers where kind = 'forecast'")
    _briefly(
        "drop index budget_entries_converted_idx",
        "drop index budget_entries_budget_idx",
        "create index budget_entries_budget_idx on budget_entries (tenant_id, budget_id, id)",
    )
    op.execute("alter table budgets drop column forecast_version")
