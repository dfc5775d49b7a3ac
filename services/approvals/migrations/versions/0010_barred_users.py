"""Pending slots list the users who can't decide them, so that lists show only what the caller can decide."""

from alembic import op

from deploy import ddl

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute("alter table approval_seats add column barred text[] not null default '{}'")
    with (
        ddl.of_all_tenants("approval_seats"),
        ddl.of_all_tenants("approval_requests"),
        ddl.of_all_tenants("approval_actions"),
    ):
        # Those whom the lists left out up to now; each change of a request lists the others, too.
        op.execute("""
            update approval_seats s set barred = array(
                select actor from approval_actions
                where tenant_id = s.tenant_id and approval_id = s.approval_id and step = s.step and round = r.round
                    and action = 'APPROVE'
                union select r.requester where r.requester <> s.user_id
            )
            from approval_requests r where r.tenant_id = s.tenant_id and r.id = s.approval_id""")


def downgrade() -> None:
    op.execute("alter table approval_seats drop column barred")
