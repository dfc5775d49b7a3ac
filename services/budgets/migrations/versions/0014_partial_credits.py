"""Unbudgeted spend can be credited in part, any number of times."""

from alembic import op

revision = "0014"
down_revision = "0013"

_DROP = "-- squawk-ignore ban-drop-constraint\n"


def upgrade() -> None:
    op.execute("alter table unbudgeted_spend add column credited_allocation_id uuid")
    op.execute(f"{_DROP}alter table unbudgeted_spend drop constraint unbudgeted_spend_amount_check")
    # Not validated, since no row is a credit yet.
    op.execute("""
        alter table unbudgeted_spend add constraint unbudgeted_spend_amount_check check (
            case when reversed_allocation_id is null and credited_allocation_id is null then amount > 0
            else amount < 0 and (reversed_allocation_id is null or credited_allocation_id is null) end
        ) not valid""")
    op.execute("""
        -- squawk-ignore require-concurrent-index-creation
        create index unbudgeted_spend_credited_idx on unbudgeted_spend (tenant_id, credited_allocation_id)
        where credited_allocation_id is not null""")


def downgrade() -> None:
    op.execute(f"{_DROP}alter table unbudgeted_spend drop constraint unbudgeted_spend_amount_check")
    # Not validated, since the earlier version does not know credits.
    op.execute("""
        alter table unbudgeted_spend add constraint unbudgeted_spend_amount_check check (
            case when reversed_allocation_id is null then amount > 0 else amount < 0 end
        ) not valid""")
    op.execute("alter table unbudgeted_spend drop column credited_allocation_id")
