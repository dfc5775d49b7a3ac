"""Add the anchor day of contracts that were renewed at the end of a month shorter than their first start date needs."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute("alter table billing_contracts add column anchor_day integer check (anchor_day between 1 and 31)")


def downgrade() -> None:
    op.execute("alter table billing_contracts drop column anchor_day")
