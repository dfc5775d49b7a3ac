"""Free the reference of a cost after its reversal, and record reversals of splits.

Rows are never changed, so a document that is allocated again after a reversal gets the next number in
`source_ref_sequence`. A process of an earlier version uses number 1 only, so it still refuses what it refused before.
"""

from alembic import op

from deploy import ddl

revision = "0017"
down_revision = "0016"

_INDEX = "-- squawk-ignore require-concurrent-index-creation, require-concurrent-index-deletion\n"
_KEY = "-- squawk-ignore disallowed-unique-constraint, constraint-missing-not-valid\n"
_DROP = "-- squawk-ignore ban-drop-constraint\n"


def upgrade() -> None:
    for table in ("cost_allocations", "cost_splits"):
        op.execute(f"alter table {table} add column source_ref_sequence integer not null default 1")
    op.execute(f"""{_INDEX}create unique index cost_allocations_document_key
        on cost_allocations (tenant_id, source, source_ref, source_ref_sequence)
        where source_ref <> '' and reversal_of is null""")
    op.execute(f"{_INDEX}drop index cost_allocations_source_key")
    op.execute(f"{_DROP}alter table cost_splits drop constraint cost_splits_ref_key")
    op.execute(f"""{_KEY}alter table cost_splits add constraint cost_splits_ref_key unique (
        tenant_id, source_ref, source_ref_sequence)""")
    op.execute("""
        create table cost_split_reversals (
            tenant_id uuid not null,
            id uuid not null,
            split_id uuid not null,
            reason text not null check (reason <> ''),
            allocation_date date not null,
            restored_allocation_id uuid,
            actor text not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint cost_split_reversals_split_key unique (tenant_id, split_id),
            foreign key (tenant_id, split_id) references cost_splits (tenant_id, id),
            foreign key (tenant_id, restored_allocation_id) references cost_allocations (tenant_id, id)
        )""")
    op.execute("""
        create index cost_split_reversals_restored_idx on cost_split_reversals (tenant_id, restored_allocation_id)
        where restored_allocation_id is not null""")
    ddl.isolate("cost_split_reversals")
    ddl.append_only("entities", "cost_split_reversals")
    ddl.audit("cost_split_reversals")


def downgrade() -> None:
    op.execute("drop table cost_split_reversals")
    # The earlier version knows one use of a reference, so the later ones get references of their own.
    for table in ("cost_allocations", "cost_splits"):
        with ddl.of_all_tenants(table):
            op.execute(f"""
                update {table} set source_ref = source_ref || '#' || source_ref_sequence
                where source_ref_sequence > 1 and source_ref <> ''""")
    op.execute(f"""{_INDEX}create unique index cost_allocations_source_key
        on cost_allocations (tenant_id, source, source_ref)
        where source_ref <> '' and reversal_of is null""")
    op.execute(f"{_INDEX}drop index cost_allocations_document_key")
    op.execute(f"{_DROP}alter table cost_splits drop constraint cost_splits_ref_key")
    op.execute(f"""{_KEY}alter table cost_splits add constraint cost_splits_ref_key unique (
        tenant_id, source_ref)""")
    for table in ("cost_allocations", "cost_splits"):
        op.execute(f"alter table {table} drop column source_ref_sequence")
