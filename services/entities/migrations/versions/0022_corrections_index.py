"""Index the corrections of allocations: reversals and credits, which CheckRenewal reads by entity and day."""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.execute("""
        -- squawk-ignore require-concurrent-index-creation
        create index cost_allocations_correction_idx on cost_allocations (tenant_id, entity_id, allocation_date)
        where coalesce(reversal_of, credit_of) is not null""")


def downgrade() -> None:
    op.execute("drop index cost_allocations_correction_idx")
