"""The serving role writes neither the audit log nor Alembic's table; dead letters of all tenants can be counted."""

from deploy import ddl

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    ddl.protect_version_table("approvals")
    ddl.audit_as_owner("approvals")
    ddl.count_dead_letters()


def downgrade() -> None:
    ddl.hide_dead_letters()
    ddl.audit_as_caller("approvals")
    ddl.unprotect_version_table("approvals")
