"""Holds for approval requests."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("alter table budget_holds add column approval_id uuid")


def downgrade() -> None:
    op.execute("alter table budget_holds drop column approval_id")
