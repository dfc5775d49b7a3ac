"""Create the history of the tree of entities, and an index for planned moves of departments."""

from alembic import op

from deploy import ddl

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("""
        create table entity_history (
            tenant_id uuid not null,
            id uuid not null,
            entity_id uuid not null,
            parent_id uuid check (parent_id <> entity_id),
            start_time timestamptz not null,
            end_time timestamptz check (end_time >= start_time),
            create_time timestamptz not null,
            primary key (tenant_id, id),
            foreign key (tenant_id, entity_id) references billing_entities (tenant_id, id),
            foreign key (tenant_id, parent_id) references billing_entities (tenant_id, id)
        )""")
    op.execute("""
        create unique index entity_history_now_idx on entity_history (tenant_id, entity_id)
        where end_time is null""")
    op.execute("create index entity_history_entity_idx on entity_history (tenant_id, entity_id, start_time)")
    op.execute("create index entity_history_parent_idx on entity_history (tenant_id, parent_id)")
    # Few rows have a future date, so this index finds planned moves quickly.
    op.execute("""
        -- squawk-ignore require-concurrent-index-creation
        create index department_history_from_idx on department_history (tenant_id, effective_from)""")
    ddl.isolate("entity_history")
    # Not audited: the audit log already has the changes of `billing_entities.parent_id`.
    # Entities could not be moved before, so each has had its parent since its creation.
    with ddl.of_all_tenants("billing_entities"), ddl.of_all_tenants("entity_history"):
        op.execute("""
            insert into entity_history (tenant_id, id, entity_id, parent_id, start_time, create_time)
            select tenant_id, gen_random_uuid(), id, parent_id, create_time, now() from billing_entities""")


def downgrade() -> None:
    op.execute("-- squawk-ignore require-concurrent-index-deletion\ndrop index department_history_from_idx")
    op.execute("drop table entity_history")
