"""Add the remainders of evenly spread contract values that amendments leave where they are."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute("""
        alter table billing_contracts add column remainders jsonb not null default '{}'
        check (jsonb_typeof(remainders) = 'object')""")


def downgrade() -> None:
    op.execute("alter table billing_contracts drop column remainders")
