"""Soft close: a rolled-over budget accepts late postings for some days, and each corrects what was carried forward."""

from alembic import op

from deploy import ddl

revision = "0009"
down_revision = "0008"

ENGINE = "budgets_engine"

_SLOW = (
    "ban-drop-constraint", "constraint-missing-not-valid", "adding-field-with-default", "changing-column-type",
    "require-concurrent-index-creation", "require-concurrent-index-deletion",
)  # fmt: skip
_DEFINITION = (
    "name", "category", "gl_code", "amount", "overspend_policy", "tolerance_bp", "alert_thresholds_bp", "state",
)  # fmt: skip
"""The audited columns of a budget up to now."""


def _briefly(*statements: str) -> None:
    """Run statements that scan a table which is small yet; they give way to others after 300 ms."""
    for statement in statements:
        op.execute(f"-- squawk-ignore {', '.join(_SLOW)}\n{statement}")


def _states(*states: str) -> None:
    """Replace the states that a budget may have, and those in which it may be charged with an allocated cost."""
    charged = ", ".join(f"'{state}'" for state in states if state in {"ACTIVE", "CLOSING"})
    _briefly(
        "alter table budgets drop constraint budgets_state_check",
        f"alter table budgets add constraint budgets_state_check check (state in {states})",
        "drop index budgets_usage_idx",
        "create index budgets_usage_idx on budgets (tenant_id, entity_id,"
        " (case when department_id is null then '00000000-0000-0000-0000-000000000000' else department_id end),"
        f" category) where state in ({charged})",
    )


def upgrade() -> None:
    _briefly(
        "alter table budgets add late_posting_days integer not null default 5"
        " check (late_posting_days between 0 and 90)",
        "alter table budgets add carried_forward numeric(20, 6), add moved_holds numeric(20, 6),"
        " add next_amount numeric(20, 6)",
        "alter table budgets add constraint budgets_rolled_over_check"
        " check (num_nulls(carried_forward, moved_holds, next_amount) in (0, 3))",
    )
    _states("DRAFT", "ACTIVE", "CLOSING", "CLOSED")
    with ddl.of_all_tenants("budgets"), ddl.of_all_tenants("budget_entries"):
        # A rolled-over budget that was reopened keeps accepting charges: they are late postings now.
        op.execute("""
            update budgets b set
                state = case state when 'ACTIVE' then 'CLOSING' else state end,
                carried_forward = (
                    select coalesce(-sum(moved_amount), 0) from budget_entries
                    where tenant_id = b.tenant_id and budget_id = b.id and entry_type = 'ROLLOVER_OUT'
                ),
                moved_holds = (
                    select coalesce(-sum(moved_held + moved_committed), 0) from budget_entries
                    where tenant_id = b.tenant_id and b.id = any(chain_ids) and entry_type = 'ROLLOVER_OUT'
                ),
                next_amount = (
                    select e.chain_amounts[1] - e.moved_amount
                    from budgets n join budget_entries e on e.tenant_id = n.tenant_id and e.budget_id = n.id
                    where n.tenant_id = b.tenant_id and n.previous_id = b.id
                        and e.entry_type = 'ROLLOVER_IN' and e.chain_versions[1] = 1
                )
            where exists (select from budgets where tenant_id = b.tenant_id and previous_id = b.id)""")
    op.execute(f"grant update (carried, carried_forward) on budgets to {ENGINE}")
    op.execute("drop trigger budgets_audit on budgets")
    ddl.audit("budgets", columns=(*_DEFINITION, "late_posting_days"))


def downgrade() -> None:
    op.execute("drop trigger budgets_audit on budgets")
    op.execute(f"revoke update (carried, carried_forward) on budgets from {ENGINE}")
    with ddl.of_all_tenants("budgets"), ddl.of_all_tenants("timers"):
        op.execute("update budgets set state = 'CLOSED' where state = 'CLOSING'")
        op.execute("delete from timers where kind = 'late-posting-end'")
    _states("DRAFT", "ACTIVE", "CLOSED")
    op.execute("""
        alter table budgets
            drop late_posting_days, drop carried_forward, drop moved_holds, drop next_amount""")
    ddl.audit("budgets", columns=_DEFINITION)
