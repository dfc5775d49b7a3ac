"""A request keeps the flag `overspend` and the type that was requested, for its next rounds."""

from alembic import op

revision = "0006"
down_revision = "0005"

_TYPES = (
    "PURCHASE", "BUDGET_INCREASE", "BUDGET_OVERSPEND", "CONTRACT", "AMENDMENT", "INVOICE", "DISPUTE_RESOLUTION",
    "OTHER",
)  # fmt: skip


def upgrade() -> None:
    op.execute(f"""
        alter table approval_requests add column requested_type text,
            add column overspend boolean not null default false,
            add constraint approval_requests_requested_type_check
                check (requested_type in {_TYPES}) not valid""")


def downgrade() -> None:
    op.execute("alter table approval_requests drop column requested_type, drop column overspend")
