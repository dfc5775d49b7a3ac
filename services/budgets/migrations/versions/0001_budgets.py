"""Budgets, their ledger and their alerts."""

from alembic import op

from deploy import ddl

revision = "0001"
down_revision = None

_DEFINITION = (
    "name", "category", "gl_code", "amount", "overspend_policy", "tolerance_bp", "alert_thresholds_bp", "state",
)  # fmt: skip


def upgrade() -> None:
    ddl.foundation("budgets")
    op.execute("create type period_type as enum ('MONTHLY', 'QUARTERLY', 'ANNUAL', 'CUSTOM')")
    op.execute("create type overspend_policy as enum ('BLOCK', 'WARN', 'ALLOW_WITHIN_TOLERANCE', 'REQUIRE_APPROVAL')")
    op.execute("create type budget_state as enum ('DRAFT', 'ACTIVE', 'CLOSED')")
    op.execute("create type entry_type as enum ('CHARGE', 'ADJUST')")
    op.execute("create type charge_verdict as enum ('ACCEPTED', 'ACCEPTED_OVERSPENT')")
    op.execute("create type alert_type as enum ('THRESHOLD', 'OVERSPEND')")
    op.execute("create type alert_state as enum ('OPEN', 'ACKNOWLEDGED', 'RESOLVED')")
    _budget_owners()
    _budgets()
    _budget_entries()
    _budget_alerts()


def _budget_owners() -> None:
    op.execute("""
        create table budget_owners (
            tenant_id uuid not null,
            id uuid not null,
            retired boolean not null,
            create_time timestamptz not null,
            primary key (tenant_id, id)
        )""")
    ddl.isolate("budget_owners")
    ddl.audit("budget_owners", columns=("retired",))


def _budgets() -> None:
    op.execute("""
        create table budgets (
            tenant_id uuid not null,
            id uuid not null,
            entity_id uuid not null,
            department_id uuid,
            parent_id uuid,
            ancestor_ids uuid[] not null,
            name text not null check (name <> ''),
            category text not null,
            gl_code text not null,
            period_type period_type not null,
            period_start date not null,
            period_end date not null,
            time_zone text not null,
            currency_code char(3) not null,
            amount numeric(20, 6) not null check (amount > 0),
            spent numeric(20, 6) not null check (spent >= 0),
            overspend_policy overspend_policy not null,
            tolerance_bp integer not null check (tolerance_bp between 0 and 10000),
            alert_thresholds_bp integer[] not null,
            ledger_version integer not null,
            state budget_state not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            foreign key (tenant_id, entity_id) references budget_owners (tenant_id, id),
            foreign key (tenant_id, parent_id) references budgets (tenant_id, id),
            constraint budgets_period_check check (period_start < period_end),
            constraint budgets_never_overspent check (
                case overspend_policy
                    when 'BLOCK' then spent <= amount
                    when 'ALLOW_WITHIN_TOLERANCE' then spent * 10000 <= amount * (10000 + tolerance_bp)
                    else true
                end
            )
        )""")
    op.execute("create index budgets_entity_idx on budgets (tenant_id, entity_id, id)")
    op.execute("create index budgets_department_idx on budgets (tenant_id, department_id, id)")
    op.execute("create index budgets_parent_idx on budgets (tenant_id, parent_id, id)")
    op.execute("create index budgets_period_idx on budgets (tenant_id, period_start, period_end)")
    ddl.isolate("budgets")
    # Changes of balances are recorded in the ledger; the trigger audits changes of the definition.
    ddl.audit("budgets", columns=_DEFINITION)


def _budget_entries() -> None:
    op.execute("""
        create table budget_entries (
            tenant_id uuid not null,
            id uuid not null,
            entry_type entry_type not null,
            budget_id uuid not null,
            chain_ids uuid[] not null,
            chain_versions integer[] not null,
            chain_amounts numeric(20, 6)[] not null,
            chain_spent numeric(20, 6)[] not null,
            amount numeric(20, 6) not null,
            currency_code char(3) not null,
            verdict charge_verdict,
            request_id text,
            description text not null,
            reference text not null,
            actor text not null,
            charge_time timestamptz not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            foreign key (tenant_id, budget_id) references budgets (tenant_id, id),
            constraint budget_entries_charge_check check (
                entry_type <> 'CHARGE' or (amount > 0 and request_id is not null and verdict is not null)
            )
        )""")
    op.execute("create unique index budget_entries_request_idx on budget_entries (tenant_id, request_id)")
    op.execute("create index budget_entries_budget_idx on budget_entries (tenant_id, budget_id, id)")
    ddl.isolate("budget_entries")
    ddl.append_only("budgets", "budget_entries")


def _budget_alerts() -> None:
    op.execute("""
        create table budget_alerts (
            tenant_id uuid not null,
            id uuid not null,
            budget_id uuid not null,
            alert_type alert_type not null,
            threshold_bp integer not null,
            utilisation_bp integer not null,
            currency_code char(3) not null,
            amount numeric(20, 6) not null,
            spent numeric(20, 6) not null,
            charge_id uuid,
            state alert_state not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            foreign key (tenant_id, budget_id) references budgets (tenant_id, id),
            foreign key (tenant_id, charge_id) references budget_entries (tenant_id, id)
        )""")
    op.execute("""
        create unique index budget_alerts_mark_idx on budget_alerts (tenant_id, budget_id, alert_type, threshold_bp)
        where state <> 'RESOLVED'""")
    op.execute("create index budget_alerts_budget_idx on budget_alerts (tenant_id, budget_id, id)")
    op.execute("create index budget_alerts_charge_idx on budget_alerts (tenant_id, charge_id)")
    ddl.isolate("budget_alerts")
    ddl.audit("budget_alerts")


def downgrade() -> None:
    for table in ("budget_alerts", "budget_entries", "budgets", "budget_owners"):
        op.execute(f"drop table {table}")
    for kind in (
        "alert_state", "alert_type", "charge_verdict", "entry_type", "budget_state", "overspend_policy", "period_type",
    ):  # fmt: skip
        op.execute(f"drop type {kind}")
    ddl.drop_foundation()
