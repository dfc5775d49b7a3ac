"""Period locks: nothing dated before the lock of an entity or of the tenant is charged any more."""

from alembic import op

from deploy import ddl

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute("""
        create table period_locks (
            tenant_id uuid not null,
            id uuid not null,
            entity_id uuid,
            locked_until date not null,
            reason text not null check (reason <> ''),
            actor text not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint period_locks_owner_key unique nulls not distinct (tenant_id, entity_id)
        )""")
    ddl.isolate("period_locks")
    ddl.audit("period_locks")
    op.execute("alter table budgets add locked_until_time timestamptz")


def downgrade() -> None:
    op.execute("alter table budgets drop locked_until_time")
    op.execute("drop table period_locks")
