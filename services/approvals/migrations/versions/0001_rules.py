"""Approval rules, their versions, and a counter of the changes of each tenant's rules.

Enum columns are text with a CHECK: under row-level security, an index is not used for a native enum type.
"""

from alembic import op

from deploy import ddl

revision = "0001"
down_revision = None


def upgrade() -> None:
    ddl.foundation("approvals")
    ddl.timers("approvals")
    _approval_rules()
    _approval_rule_versions()
    op.execute("""
        create table approval_rule_revisions (
            tenant_id uuid not null,
            revision bigint not null check (revision > 0),
            primary key (tenant_id)
        )""")
    ddl.isolate("approval_rule_revisions")


def _approval_rules() -> None:
    op.execute("""
        create table approval_rules (
            tenant_id uuid not null,
            id uuid not null,
            name text not null check (name <> ''),
            priority integer not null,
            request_type text check (
                request_type in (
                    'PURCHASE', 'BUDGET_INCREASE', 'BUDGET_OVERSPEND', 'CONTRACT', 'AMENDMENT', 'INVOICE',
                    'DISPUTE_RESOLUTION', 'OTHER'
                )
            ),
            amount_above numeric(20, 6) check (amount_above >= 0),
            amount_up_to numeric(20, 6) check (amount_up_to > 0),
            currency_code char(3) check (currency_code ~ '^[A-Z]{3}$'),
            ladder text not null,
            entity_ids uuid[] not null,
            department_ids uuid[] not null,
            categories text[] not null,
            condition text not null,
            steps jsonb not null check (jsonb_typeof(steps) = 'array'),
            flow text not null check (flow in ('SEQUENTIAL', 'PARALLEL')),
            auto_approve boolean not null,
            allow_self_approval boolean not null,
            on_expiry text not null check (on_expiry in ('REJECTED', 'EXPIRED')),
            business_hours jsonb check (jsonb_typeof(business_hours) = 'object'),
            is_default boolean not null,
            state text not null check (state in ('ACTIVE', 'PAUSED', 'DELETED')),
            rule_version integer not null check (rule_version > 0),
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint approval_rules_range_check check (amount_up_to > amount_above),
            constraint approval_rules_money_check check (
                (currency_code is null) = (amount_above is null and amount_up_to is null)
            ),
            constraint approval_rules_asking_check check (auto_approve = (steps = '[]'::jsonb))
        )""")
    op.execute("create index approval_rules_state_idx on approval_rules (tenant_id, state, id)")
    op.execute("create index approval_rules_type_idx on approval_rules (tenant_id, request_type, id)")
    op.execute("create index approval_rules_ladder_idx on approval_rules (tenant_id, ladder, id)")
    # Guarantees that no request type has two default rules, also under concurrency.
    op.execute("""
        create unique index approval_rules_default_key on approval_rules (tenant_id, coalesce(request_type, ''))
        where is_default and state <> 'DELETED'""")
    ddl.isolate("approval_rules")
    ddl.audit("approval_rules")


def _approval_rule_versions() -> None:
    op.execute("""
        create table approval_rule_versions (
            tenant_id uuid not null,
            id uuid not null,
            rule_id uuid not null,
            rule_version integer not null check (rule_version > 0),
            record jsonb not null check (jsonb_typeof(record) = 'object'),
            actor text not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint approval_rule_versions_number_key unique (tenant_id, rule_id, rule_version),
            foreign key (tenant_id, rule_id) references approval_rules (tenant_id, id)
        )""")
    ddl.isolate("approval_rule_versions")
    ddl.append_only("approvals", "approval_rule_versions")


def downgrade() -> None:
    for table in ("approval_rule_revisions", "approval_rule_versions", "approval_rules"):
        op.execute(f"drop table {table}")
    ddl.drop_timers()
    ddl.drop_foundation()
