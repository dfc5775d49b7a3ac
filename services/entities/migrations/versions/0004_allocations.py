"""Create cost allocations. A row is never changed; a mistake is corrected by a row with the opposite amount.

Therefore no row refers to the invoice that billed it: such links need a table of their own.

The table is not partitioned by date, since PostgreSQL can't enforce the unique key of documents across partitions.
`source` is text with a CHECK, since under row-level security an index is used for text, but not for an enum.
"""

from alembic import op

from deploy import ddl

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # The last element of a path is the department itself; for an empty path, the element at index 0 is null.
    op.execute("""
        create table cost_allocations (
            tenant_id uuid not null,
            id uuid not null,
            entity_id uuid not null,
            department_id uuid,
            department_path uuid[] not null
                check (department_path[cardinality(department_path)] is not distinct from department_id),
            category text not null,
            source text not null check (source in ('USAGE', 'INVOICE', 'CONTRACT', 'MANUAL', 'SPLIT')),
            source_ref text not null,
            amount numeric(20, 6) not null check (amount <> 0),
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            entity_amount numeric(20, 6) not null check (sign(entity_amount) in (0, sign(amount))),
            entity_currency_code char(3) not null check (entity_currency_code ~ '^[A-Z]{3}$'),
            rate numeric check (rate > 0),
            rate_date date,
            quantity numeric(20, 6),
            unit text not null,
            gl_code text not null,
            counterparty_entity_id uuid check (counterparty_entity_id <> entity_id),
            allocation_date date not null,
            description text not null,
            reversal_of uuid check (reversal_of <> id),
            actor text not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint cost_allocations_sign_check check ((amount < 0) = (reversal_of is not null)),
            constraint cost_allocations_converted_check check (
                case when currency_code = entity_currency_code
                then rate is null and rate_date is null and entity_amount = amount
                else rate is not null and rate_date is not null end
            ),
            foreign key (tenant_id, entity_id) references billing_entities (tenant_id, id),
            foreign key (tenant_id, entity_id, department_id) references departments (tenant_id, entity_id, id),
            foreign key (tenant_id, counterparty_entity_id) references billing_entities (tenant_id, id),
            foreign key (tenant_id, reversal_of) references cost_allocations (tenant_id, id)
        )""")
    # A document is allocated once, even after a reversal.
    op.execute("""
        create unique index cost_allocations_source_key on cost_allocations (tenant_id, source, source_ref)
        where source_ref <> '' and reversal_of is null""")
    op.execute("""
        create unique index cost_allocations_reversal_key on cost_allocations (tenant_id, reversal_of)
        where reversal_of is not null""")
    op.execute("""
        create index cost_allocations_department_idx
        on cost_allocations (tenant_id, department_id, allocation_date, id)""")
    op.execute("""
        create index cost_allocations_category_idx
        on cost_allocations (tenant_id, department_id, category, allocation_date, id)""")
    op.execute("create index cost_allocations_entity_idx on cost_allocations (tenant_id, entity_id, allocation_date)")
    op.execute("create index cost_allocations_day_idx on cost_allocations (tenant_id, allocation_date)")
    op.execute("""
        create index cost_allocations_counterparty_idx on cost_allocations (tenant_id, counterparty_entity_id)
        where counterparty_entity_id is not null""")
    ddl.isolate("cost_allocations")
    ddl.append_only("entities", "cost_allocations")
    _posted_departments()


def _posted_departments() -> None:
    """Create the table of departments that costs were posted to, by ancestor, for reports along the tree as posted.

    `department_path` has the same data, but under row-level security no index can be used for the elements of an array.
    The history of departments does not help: a backdated move changes it, and leaves posted costs where they are.
    """
    op.execute("""
        create table posted_departments (
            tenant_id uuid not null,
            ancestor_id uuid not null,
            department_id uuid not null,
            primary key (tenant_id, ancestor_id, department_id)
        )""")
    ddl.isolate("posted_departments")
    ddl.append_only("entities", "posted_departments")
    # Always in the same order, so that concurrent transactions don't deadlock.
    op.execute("""
        create function note_posted_departments() returns trigger language plpgsql as $$
        begin
            insert into entities.posted_departments (tenant_id, ancestor_id, department_id)
            select distinct posted.tenant_id, above.id, posted.department_id
            from posted cross join lateral unnest(posted.department_path) above (id)
            order by 1, 2, 3
            on conflict do nothing;
            return null;
        end $$""")
    op.execute("""
        create trigger cost_allocations_posted after insert on cost_allocations
        referencing new table as posted for each statement execute function note_posted_departments()""")


def downgrade() -> None:
    op.execute("drop table cost_allocations")
    op.execute("drop function note_posted_departments()")
    op.execute("drop table posted_departments")
