"""Add the column that marks amendments with an undecided approval request."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute("alter table contract_amendments add column awaits_approval boolean not null default false")


def downgrade() -> None:
    op.execute("alter table contract_amendments drop column awaits_approval")
