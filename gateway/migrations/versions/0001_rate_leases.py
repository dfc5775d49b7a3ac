"""Create rate_leases: the requests that gateway replicas have leased from each tenant's rate limit."""

from alembic import op

from deploy import ddl

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        create table rate_leases (
            tenant_id uuid not null,
            window_start timestamptz not null,
            taken bigint not null check (taken > 0),
            primary key (tenant_id, window_start)
        )""")
    ddl.isolate("rate_leases")


def downgrade() -> None:
    op.execute("drop table rate_leases")
