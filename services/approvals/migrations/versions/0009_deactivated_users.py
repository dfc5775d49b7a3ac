"""Users whom user management has deactivated: they decide no longer, also while user management does not respond."""

from alembic import op

from deploy import ddl

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("""
        create table deactivated_users (
            tenant_id uuid not null,
            user_id text not null check (user_id <> ''),
            deactivation_time timestamptz not null,
            primary key (tenant_id, user_id)
        )""")
    ddl.isolate("deactivated_users")


def downgrade() -> None:
    op.execute("drop table deactivated_users")
