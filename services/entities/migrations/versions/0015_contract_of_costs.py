"""Link costs to the contract whose commitment they count for."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute("alter table cost_allocations add column contract_id uuid")
    # Not validated, since no row has a contract yet.
    op.execute("""
        alter table cost_allocations add constraint cost_allocations_contract_fkey
        foreign key (tenant_id, contract_id) references billing_contracts (tenant_id, id) not valid""")
    op.execute("""
        -- squawk-ignore require-concurrent-index-creation
        create index cost_allocations_contract_idx on cost_allocations (tenant_id, contract_id)
        where contract_id is not null""")


def downgrade() -> None:
    op.execute("alter table cost_allocations drop column contract_id")
