"""Unbudgeted spend: allocated costs that no budget accepted; and the index that finds the budget of a cost."""

from alembic import op

from deploy import ddl

revision = "0003"
down_revision = "0002"

ENGINE = "budgets_engine"

# The table is still small, so the index is built quickly; the statement stops waiting for a lock after 300 ms.
_INDEX = "-- squawk-ignore require-concurrent-index-creation, require-concurrent-index-deletion\n"


def upgrade() -> None:
    op.execute("""
        create table unbudgeted_spend (
            tenant_id uuid not null,
            id uuid not null,
            allocation_id uuid not null,
            reversed_allocation_id uuid,
            entity_id uuid not null,
            department_id uuid,
            category text not null,
            gl_code text not null,
            amount numeric(20, 6) not null,
            currency_code char(3) not null,
            allocation_date date not null,
            reason text not null check (reason <> ''),
            detail text not null,
            budget_id uuid,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            foreign key (tenant_id, budget_id) references budgets (tenant_id, id),
            constraint unbudgeted_spend_amount_check check (
                case when reversed_allocation_id is null then amount > 0 else amount < 0 end
            )
        )""")
    op.execute("create unique index unbudgeted_spend_allocation_key on unbudgeted_spend (tenant_id, allocation_id)")
    # An allocation is reversed once.
    op.execute("""
        create unique index unbudgeted_spend_reversed_key on unbudgeted_spend (tenant_id, reversed_allocation_id)
        where reversed_allocation_id is not null""")
    op.execute("create index unbudgeted_spend_entity_idx on unbudgeted_spend (tenant_id, entity_id, id)")
    op.execute("create index unbudgeted_spend_department_idx on unbudgeted_spend (tenant_id, department_id, id)")
    op.execute("create index unbudgeted_spend_date_idx on unbudgeted_spend (tenant_id, allocation_date)")
    op.execute("""
        create index unbudgeted_spend_budget_idx on unbudgeted_spend (tenant_id, budget_id)
        where budget_id is not null""")
    ddl.isolate("unbudgeted_spend")
    ddl.append_only("budgets", "unbudgeted_spend")
    op.execute(f"grant select, insert on unbudgeted_spend to {ENGINE}")
    ddl.share_among_tenants("unbudgeted_spend", ENGINE)
    # Budgets of past periods are closed, so few budgets are active however long the history is. `case`, because
    # `coalesce` is not leakproof, and under row-level security only leakproof conditions use an index.
    op.execute(f"""{_INDEX}create index budgets_usage_idx on budgets (
            tenant_id, entity_id,
            (case when department_id is null then '00000000-0000-0000-0000-000000000000' else department_id end),
            category
        )
        where state = 'ACTIVE'""")


def downgrade() -> None:
    op.execute(f"{_INDEX}drop index budgets_usage_idx")
    op.execute("drop table unbudgeted_spend")
