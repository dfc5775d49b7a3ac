"""Add the controller of an entity."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("alter table billing_entities add column controller_user_id text not null default ''")


def downgrade() -> None:
    op.execute("alter table billing_entities drop column controller_user_id")
