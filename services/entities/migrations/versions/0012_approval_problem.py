"""Add the column that shows why the approval of a contract could not be requested."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("alter table billing_contracts add column approval_problem text not null default ''")


def downgrade() -> None:
    op.execute("alter table billing_contracts drop column approval_problem")
