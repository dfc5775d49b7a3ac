"""Add the days on which departments are active, so that late costs are accepted for days before a deactivation."""

from alembic import op

from deploy import ddl

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.execute("alter table departments add column start_date date")
    op.execute("alter table departments add column state_changes date[] not null default '{}'")
    # The best known day of the deactivation: that of the last change.
    with ddl.of_all_tenants("departments"):
        op.execute("""
            update departments set state_changes = array[(update_time at time zone 'UTC')::date]
            where state = 'INACTIVE'""")


def downgrade() -> None:
    op.execute("alter table departments drop column state_changes")
    op.execute("alter table departments drop column start_date")
