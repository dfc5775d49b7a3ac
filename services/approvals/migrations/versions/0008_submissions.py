"""The last submission of each contract and amendment, so that an earlier or refused one has no effect any more."""

from alembic import op

from deploy import ddl

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("""
        create table submissions (
            tenant_id uuid not null,
            subject_type text not null check (subject_type <> ''),
            subject_id text not null check (subject_id <> ''),
            number integer not null check (number > 0),
            ended boolean not null,
            primary key (tenant_id, subject_type, subject_id)
        )""")
    ddl.isolate("submissions")


def downgrade() -> None:
    op.execute("drop table submissions")
