"""Credit allocations in part. A credit is an allocation of its own that refers to the one it credits."""

from alembic import op

revision = "0020"
down_revision = "0019"

_DROP = "-- squawk-ignore ban-drop-constraint\n"


def upgrade() -> None:
    op.execute("alter table cost_allocations add column credit_of uuid")
    op.execute(f"{_DROP}alter table cost_allocations drop constraint cost_allocations_sign_check")
    # Not validated, since no row is a credit yet.
    for name, condition in {
        "cost_allocations_sign_check": "(amount < 0) = (coalesce(reversal_of, credit_of) is not null)",
        "cost_allocations_credit_check": "reversal_of is null or credit_of is null",
    }.items():
        op.execute(f"alter table cost_allocations add constraint {name} check ({condition}) not valid")
    op.execute("""
        alter table cost_allocations add constraint cost_allocations_credit_fkey
        foreign key (tenant_id, credit_of) references cost_allocations (tenant_id, id) not valid""")
    op.execute("""
        -- squawk-ignore require-concurrent-index-creation
        create index cost_allocations_credit_idx on cost_allocations (tenant_id, credit_of)
        where credit_of is not null""")


def downgrade() -> None:
    # Weaker than before, since credits are negative without being reversals.
    op.execute(f"{_DROP}alter table cost_allocations drop constraint cost_allocations_sign_check")
    op.execute("""
        alter table cost_allocations add constraint cost_allocations_sign_check
        check (amount < 0 or reversal_of is null) not valid""")
    op.execute("alter table cost_allocations drop column credit_of")
