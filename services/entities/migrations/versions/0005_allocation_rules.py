"""Create allocation rules and splits.

Targets are rows, not JSON, so that the database refuses departments of other tenants, and an index finds the rules of a
department. The shares of a split are JSON, since they are read as a whole and never change. Columns that lists are
filtered by are text with a CHECK, not an enum type, since under row-level security an index is used for text only.
"""

from alembic import op

from deploy import ddl

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    _allocation_rules()
    _allocation_rule_targets()
    _cost_splits()


def _allocation_rules() -> None:
    op.execute("""
        create table allocation_rules (
            tenant_id uuid not null,
            id uuid not null,
            name text not null check (name <> ''),
            rule_type text not null check (rule_type in ('FIXED_PERCENT', 'EVEN', 'PROPORTIONAL')),
            basis text check (basis in ('HEADCOUNT', 'USAGE', 'GIVEN')),
            usage_unit text not null,
            usage_category text not null,
            source_department_id uuid,
            category text not null,
            effective_from date not null,
            effective_to date check (effective_to > effective_from),
            state text not null check (state in ('ACTIVE', 'ENDED')),
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint allocation_rules_weighed_check check ((rule_type = 'PROPORTIONAL') = (basis is not null)),
            constraint allocation_rules_usage_check check (
                case when basis = 'USAGE' then usage_unit <> '' else usage_unit = '' and usage_category = '' end
            ),
            foreign key (tenant_id, source_department_id) references departments (tenant_id, id)
        )""")
    op.execute("create index allocation_rules_source_idx on allocation_rules (tenant_id, source_department_id, id)")
    op.execute("create index allocation_rules_category_idx on allocation_rules (tenant_id, category, id)")
    op.execute("create index allocation_rules_state_idx on allocation_rules (tenant_id, state, id)")
    op.execute("create index allocation_rules_type_idx on allocation_rules (tenant_id, rule_type, id)")
    ddl.isolate("allocation_rules")
    ddl.audit("allocation_rules")


def _allocation_rule_targets() -> None:
    op.execute("""
        create table allocation_rule_targets (
            tenant_id uuid not null,
            id uuid not null,
            rule_id uuid not null,
            position integer not null check (position >= 0),
            department_id uuid not null,
            percent_bp integer not null check (percent_bp between 0 and 10000),
            weight numeric(20, 6) check (weight >= 0),
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint allocation_rule_targets_position_key unique (tenant_id, rule_id, position),
            constraint allocation_rule_targets_department_key unique (tenant_id, department_id, rule_id),
            foreign key (tenant_id, rule_id) references allocation_rules (tenant_id, id),
            foreign key (tenant_id, department_id) references departments (tenant_id, id)
        )""")
    ddl.isolate("allocation_rule_targets")
    ddl.audit("allocation_rule_targets")


def _cost_splits() -> None:
    # The key is never released, so that no cost is split twice.
    op.execute("""
        create table cost_splits (
            tenant_id uuid not null,
            id uuid not null,
            source_ref text not null check (source_ref <> ''),
            rule_id uuid,
            rule_version integer,
            rule_type text not null check (rule_type in ('FIXED_PERCENT', 'EVEN', 'PROPORTIONAL')),
            basis text check (basis in ('HEADCOUNT', 'USAGE', 'GIVEN')),
            amount numeric(20, 6) not null check (amount > 0),
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            allocation_date date not null,
            category text not null,
            gl_code text not null,
            description text not null,
            source_department_id uuid,
            split_allocation_id uuid,
            usage_start date,
            usage_end date check (usage_end > usage_start),
            shares jsonb not null check (jsonb_typeof(shares) = 'array'),
            department_ids uuid[] not null check (cardinality(department_ids) > 0),
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint cost_splits_ref_key unique (tenant_id, source_ref),
            constraint cost_splits_rule_check check ((rule_id is null) = (rule_version is null)),
            foreign key (tenant_id, rule_id) references allocation_rules (tenant_id, id),
            foreign key (tenant_id, source_department_id) references departments (tenant_id, id),
            foreign key (tenant_id, split_allocation_id) references cost_allocations (tenant_id, id)
        )""")
    op.execute("""
        create unique index cost_splits_allocation_key on cost_splits (tenant_id, split_allocation_id)
        where split_allocation_id is not null""")
    op.execute("create index cost_splits_rule_idx on cost_splits (tenant_id, rule_id, id)")
    op.execute("create index cost_splits_source_idx on cost_splits (tenant_id, source_department_id, id)")
    op.execute("create index cost_splits_date_idx on cost_splits (tenant_id, allocation_date, id)")
    ddl.isolate("cost_splits")
    ddl.append_only("entities", "cost_splits")


def downgrade() -> None:
    for table in ("cost_splits", "allocation_rule_targets", "allocation_rules"):
        op.execute(f"drop table {table}")
