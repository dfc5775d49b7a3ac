"""Requests follow their budget to its next period: which budget follows which, and entries of the history."""

from alembic import op

from deploy import ddl

revision = "0005"
down_revision = "0004"

_ACTIONS = (
    "APPROVE", "REJECT", "REQUEST_CHANGES", "COMMENT", "DELEGATE", "ESCALATE", "ADD_APPROVER", "REQUEST", "RESUBMIT",
    "CANCEL", "REMIND", "EXPIRE", "AUTO_APPROVE", "REPLACE_APPROVER",
)  # fmt: skip


def _set_actions(*actions: str) -> None:
    """Replace the actions that an entry may have. Stored entries are not checked, so that no table is scanned."""
    op.execute(f"""
        -- squawk-ignore ban-drop-constraint
        alter table approval_actions drop constraint approval_actions_action_check,
            add constraint approval_actions_action_check check (action in {actions}) not valid""")


def upgrade() -> None:
    op.execute("""
        create table budget_rollovers (
            tenant_id uuid not null,
            closed_budget_id uuid not null,
            opened_budget_id uuid not null,
            primary key (tenant_id, closed_budget_id),
            constraint budget_rollovers_other_check check (opened_budget_id <> closed_budget_id)
        )""")
    ddl.isolate("budget_rollovers")
    ddl.append_only("approvals", "budget_rollovers")
    _set_actions(*_ACTIONS, "ROLL_OVER")


def downgrade() -> None:
    _set_actions(*_ACTIONS)
    op.execute("drop table budget_rollovers")
