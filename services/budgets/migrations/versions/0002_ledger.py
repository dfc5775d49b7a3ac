"""Holds, refunds, transfers and rollovers in the ledger; the database role that changes balances."""

from alembic import op

from deploy import ddl

revision = "0002"
down_revision = "0001"

_ENTRY_TYPES = (
    "REFUND", "HOLD", "COMMIT", "CAPTURE", "RELEASE", "EXPIRE", "TRANSFER_IN", "TRANSFER_OUT", "ROLLOVER_IN",
    "ROLLOVER_OUT",
)  # fmt: skip
_LIMITED = (
    "case overspend_policy when 'BLOCK' then {used} <= {total}"
    " when 'ALLOW_WITHIN_TOLERANCE' then ({used}) * 10000 <= ({total}) * (10000 + tolerance_bp) else true end"
)
ENGINE = "budgets_engine"

_SLOW = (
    "adding-not-nullable-field", "ban-drop-constraint", "constraint-missing-not-valid", "adding-foreign-key-constraint",
    "require-concurrent-index-creation", "require-concurrent-index-deletion",
)  # fmt: skip


def _briefly(*statements: str) -> None:
    """Run statements that scan a table that is still small; they stop waiting for a lock after 300 ms."""
    for statement in statements:
        op.execute(f"-- squawk-ignore {', '.join(_SLOW)}\n{statement}")


def upgrade() -> None:
    for name in _ENTRY_TYPES:
        op.execute(f"alter type entry_type add value '{name}'")
    op.execute("alter type alert_type add value 'FORECAST'")
    op.execute("create type rollover as enum ('NONE', 'FULL', 'CAPPED')")
    op.execute("create type hold_state as enum ('HELD', 'COMMITTED', 'CAPTURED', 'RELEASED', 'EXPIRED')")
    _budgets()
    _budget_entries()
    _budget_holds()
    _budget_alerts()
    ddl.timers("budgets")
    _engine()


def _budgets() -> None:
    op.execute("""
        alter table budgets
            add carried numeric(20, 6) not null default 0,
            add held numeric(20, 6) not null default 0,
            add committed numeric(20, 6) not null default 0,
            add captured numeric(20, 6) not null default 0,
            add period_start_time timestamptz,
            add period_end_time timestamptz,
            add anchor_date date,
            add period_number integer not null default 0,
            add previous_id uuid,
            add recurring boolean not null default false,
            add rollover rollover not null default 'NONE',
            add rollover_cap numeric(20, 6),
            add carry_overspend boolean not null default false""")
    with ddl.of_all_tenants("budgets"):
        op.execute("""
            update budgets set anchor_date = period_start,
                period_start_time = period_start::timestamp at time zone time_zone,
                period_end_time = period_end::timestamp at time zone time_zone""")
    used, total = "spent + held + committed", "amount + carried"
    limited = _LIMITED.format(used=used, total=total)
    _briefly(
        "alter table budgets alter period_start_time set not null",
        "alter table budgets alter period_end_time set not null",
        "alter table budgets alter anchor_date set not null",
        "alter table budgets drop constraint budgets_never_overspent",
        f"alter table budgets add constraint budgets_never_overspent check ({used} = 0 or {limited})",
        "alter table budgets add constraint budgets_balances_check"
        " check (held >= 0 and committed >= 0 and captured between 0 and spent)",
        "alter table budgets add constraint budgets_rollover_check"
        " check ((rollover = 'CAPPED') = (rollover_cap is not null))",
        "alter table budgets add foreign key (tenant_id, previous_id) references budgets (tenant_id, id)",
        # Each period of a series is opened once, by a user or by the timer.
        "create unique index budgets_previous_idx on budgets (tenant_id, previous_id)",
    )


def _budget_entries() -> None:
    _briefly("drop index budget_entries_request_idx")  # idempotency keys are stored with the replies
    op.execute("""
        alter table budget_entries
            add moved_amount numeric(20, 6) not null default 0,
            add moved_spent numeric(20, 6) not null default 0,
            add moved_held numeric(20, 6) not null default 0,
            add moved_committed numeric(20, 6) not null default 0,
            add moved_captured numeric(20, 6) not null default 0,
            add chain_held numeric(20, 6)[] not null default '{}',
            add chain_committed numeric(20, 6)[] not null default '{}',
            add hold_id uuid,
            add charge_id uuid,
            add counterpart_id uuid,
            add original_amount numeric(20, 6),
            add original_currency char(3),
            add rate numeric check (rate > 0),
            add rate_date date,
            add plan_amount numeric(20, 6)""")
    with ddl.of_all_tenants("budget_entries"):
        op.execute("""
            update budget_entries set
                moved_spent = case entry_type when 'CHARGE' then amount else 0 end,
                moved_amount = case entry_type when 'ADJUST' then amount else 0 end,
                chain_held = array_fill(0::numeric, array[cardinality(chain_ids)]),
                chain_committed = array_fill(0::numeric, array[cardinality(chain_ids)])""")
    _briefly(
        "alter table budget_entries add foreign key (tenant_id, charge_id) references budget_entries (tenant_id, id)",
        "alter table budget_entries add foreign key (tenant_id, counterpart_id) references budgets (tenant_id, id)",
        "create index budget_entries_charge_idx on budget_entries (tenant_id, charge_id) where charge_id is not null",
        "create index budget_entries_counterpart_idx on budget_entries (tenant_id, counterpart_id)"
        " where counterpart_id is not null",
    )


def _budget_holds() -> None:
    op.execute("""
        create table budget_holds (
            tenant_id uuid not null,
            id uuid not null,
            budget_id uuid not null,
            opened_budget_id uuid not null,
            amount numeric(20, 6) not null check (amount > 0),
            captured numeric(20, 6) not null check (captured >= 0),
            released numeric(20, 6) not null check (released >= 0),
            currency_code char(3) not null,
            original_amount numeric(20, 6),
            original_currency char(3),
            rate numeric check (rate > 0),
            rate_date date,
            state hold_state not null,
            expire_time timestamptz,
            description text not null,
            reference text not null,
            request_id text not null,
            actor text not null,
            last_entry_id uuid not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            foreign key (tenant_id, budget_id) references budgets (tenant_id, id),
            foreign key (tenant_id, opened_budget_id) references budgets (tenant_id, id),
            constraint budget_holds_open_check check (captured + released <= amount),
            constraint budget_holds_ended_check check (
                (state in ('HELD', 'COMMITTED')) = (captured + released < amount)
            )
        )""")
    op.execute("create index budget_holds_budget_idx on budget_holds (tenant_id, budget_id, id)")
    op.execute("create index budget_holds_opened_idx on budget_holds (tenant_id, opened_budget_id, id)")
    ddl.isolate("budget_holds")
    # The ledger has the entries of a hold; only its move to another budget is audited.
    ddl.audit("budget_holds", columns=("budget_id",))


def _budget_alerts() -> None:
    op.execute("alter table budget_alerts add used numeric(20, 6)")
    with ddl.of_all_tenants("budget_alerts"):
        op.execute("update budget_alerts set used = spent")
    _briefly("alter table budget_alerts alter used set not null")


def _engine() -> None:
    """Grant the role `budgets_engine` what the ledger needs: change balances and append entries of several tenants."""
    for right, table in (
        ("select, update (spent, held, committed, captured, ledger_version)", "budgets"),
        ("select, insert", "budget_entries"),
        ("select, insert, update (captured, released, state, expire_time, last_entry_id, version, update_time)",
         "budget_holds"),
        ("select, insert, update (state, version, update_time)", "budget_alerts"),
        ("select, insert", "idempotency_keys"),
        ("select, insert, delete", "timers"),
        ("insert", "outbox"),
        ("insert", "audit_log"),
    ):  # fmt: skip
        op.execute(f"grant {right} on {table} to {ENGINE}")
        ddl.share_among_tenants(table, ENGINE)
    op.execute(f"grant usage, select on all sequences in schema budgets to {ENGINE}")


def downgrade() -> None:
    for table in (
        "budgets", "budget_entries", "budget_holds", "budget_alerts", "idempotency_keys", "timers", "outbox",
        "audit_log",
    ):  # fmt: skip
        ddl.keep_to_one_tenant(table, ENGINE)
    op.execute(f"revoke all on all tables in schema budgets from {ENGINE}")
    op.execute(f"revoke all on all sequences in schema budgets from {ENGINE}")
    ddl.drop_timers()
    op.execute("alter table budget_alerts drop column used")
    op.execute("drop table budget_holds")
    op.execute("""
        alter table budget_entries
            drop moved_amount, drop moved_spent, drop moved_held, drop moved_committed, drop moved_captured,
            drop chain_held, drop chain_committed, drop hold_id, drop charge_id, drop counterpart_id,
            drop original_amount, drop original_currency, drop rate, drop rate_date, drop plan_amount""")
    op.execute("create unique index budget_entries_request_idx on budget_entries (tenant_id, request_id)")
    op.execute("alter table budgets drop constraint budgets_never_overspent")
    op.execute("""
        alter table budgets
            drop carried, drop held, drop committed, drop captured, drop period_start_time, drop period_end_time,
            drop anchor_date, drop period_number, drop previous_id, drop recurring, drop rollover, drop rollover_cap,
            drop carry_overspend""")
    limited = _LIMITED.format(used="spent", total="amount")
    op.execute(f"alter table budgets add constraint budgets_never_overspent check ({limited})")
    op.execute("alter table budget_entries drop constraint budget_entries_charge_check")
    op.execute("alter table budget_entries alter entry_type type text")
    op.execute("drop type entry_type")
    op.execute("create type entry_type as enum ('CHARGE', 'ADJUST')")
    op.execute("alter table budget_entries alter entry_type type entry_type using entry_type::entry_type")
    op.execute("""
        alter table budget_entries add constraint budget_entries_charge_check check (
            entry_type <> 'CHARGE' or (amount > 0 and request_id is not null and verdict is not null)
        )""")
    op.execute("drop index budget_alerts_mark_idx")
    op.execute("alter table budget_alerts alter alert_type type text")
    op.execute("drop type alert_type")
    op.execute("create type alert_type as enum ('THRESHOLD', 'OVERSPEND')")
    op.execute("alter table budget_alerts alter alert_type type alert_type using alert_type::alert_type")
    op.execute("""
        create unique index budget_alerts_mark_idx on budget_alerts (tenant_id, budget_id, alert_type, threshold_bp)
        where state <> 'RESOLVED'""")
    op.execute("drop type hold_state")
    op.execute("drop type rollover")
