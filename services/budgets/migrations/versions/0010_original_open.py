"""A hold in a foreign currency knows what is left of its original amount."""

from alembic import op

from deploy import ddl

revision = "0010"
down_revision = "0009"

ENGINE = "budgets_engine"


def upgrade() -> None:
    op.execute("alter table budget_holds add original_open numeric(20, 6)")
    with ddl.of_all_tenants("budget_holds"):
        op.execute("""
            update budget_holds
            set original_open = round(original_amount * (amount - captured - released) / amount, 2)
            where original_amount is not null""")
    op.execute("""
        alter table budget_holds add constraint budget_holds_original_check
        check (original_open between 0 and original_amount) not valid""")
    op.execute(f"grant update (amount, original_open) on budget_holds to {ENGINE}")


def downgrade() -> None:
    op.execute(f"revoke update (amount, original_open) on budget_holds from {ENGINE}")
    op.execute("alter table budget_holds drop original_open")
