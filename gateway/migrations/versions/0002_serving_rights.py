"""The serving role does not access Alembic's table."""

from deploy import ddl

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    ddl.protect_version_table("gateway")


def downgrade() -> None:
    ddl.unprotect_version_table("gateway")
