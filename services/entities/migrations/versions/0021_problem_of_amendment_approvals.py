"""Add the column that shows why the outcome of an amendment's approval was not recorded."""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.execute("alter table contract_amendments add column approval_problem text not null default ''")


def downgrade() -> None:
    op.execute("alter table contract_amendments drop column approval_problem")
