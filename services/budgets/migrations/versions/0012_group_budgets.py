"""Group budgets: a budget of an entity that also takes costs of the entities below it."""

from alembic import op

from deploy import ddl

revision = "0012"
down_revision = "0011"

_AUDITED = (
    "name", "category", "gl_code", "amount", "overspend_policy", "tolerance_bp", "alert_thresholds_bp", "state",
    "late_posting_days",
)  # fmt: skip
"""The audited columns of a budget up to now."""


def upgrade() -> None:
    op.execute("alter table budgets add covers_descendants boolean not null default false")
    # Not validated, since no budget is a group budget yet.
    op.execute("""
        alter table budgets add constraint budgets_group_check
        check (department_id is null or not covers_descendants) not valid""")
    op.execute("drop trigger budgets_audit on budgets")
    ddl.audit("budgets", columns=(*_AUDITED, "covers_descendants"))


def downgrade() -> None:
    op.execute("drop trigger budgets_audit on budgets")
    op.execute("alter table budgets drop covers_descendants")
    ddl.audit("budgets", columns=_AUDITED)
