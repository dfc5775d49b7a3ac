"""The serving role writes neither the audit log nor Alembic's table; dead letters of all tenants can be counted."""

from deploy import ddl

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    ddl.protect_version_table("budgets")
    ddl.audit_as_owner("budgets", engine="budgets_engine")
    ddl.count_dead_letters()


def downgrade() -> None:
    ddl.hide_dead_letters()
    ddl.audit_as_caller("budgets", engine="budgets_engine")
    ddl.unprotect_version_table("budgets")
