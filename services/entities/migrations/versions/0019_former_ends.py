"""Add the former end dates of contracts that were extended within a billing period that had begun."""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.execute("alter table billing_contracts add column former_ends date[] not null default '{}'")


def downgrade() -> None:
    op.execute("alter table billing_contracts drop column former_ends")
