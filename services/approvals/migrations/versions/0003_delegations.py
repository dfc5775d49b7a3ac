"""Delegations of approvals."""

from alembic import op

from deploy import ddl

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("""
        create table delegations (
            tenant_id uuid not null,
            id uuid not null,
            delegator text not null check (delegator <> ''),
            delegate text not null check (delegate <> ''),
            start_time timestamptz not null,
            end_time timestamptz not null,
            reason text not null,
            created_by text not null,
            revoke_time timestamptz,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint delegations_time_check check (end_time > start_time),
            constraint delegations_other_check check (delegate <> delegator)
        )""")
    op.execute("create index delegations_delegator_idx on delegations (tenant_id, delegator, id)")
    op.execute("create index delegations_delegate_idx on delegations (tenant_id, delegate, id)")
    op.execute("create index delegations_end_idx on delegations (tenant_id, end_time)")
    ddl.isolate("delegations")
    ddl.audit("delegations")


def downgrade() -> None:
    op.execute("drop table delegations")
