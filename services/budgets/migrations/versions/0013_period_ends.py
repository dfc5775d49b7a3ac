"""Budgets that don't recur are CLOSING after their period, too: set the timers at the end of open periods."""

from alembic import op

from deploy import ddl

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    with ddl.of_all_tenants("budgets"), ddl.of_all_tenants("timers"):
        op.execute("""
            insert into timers (tenant_id, kind, resource_id, due_time)
            select tenant_id, 'rollover', id, period_end_time from budgets
            where state = 'ACTIVE' and not recurring and now() < period_end_time
            on conflict do nothing""")


def downgrade() -> None:
    with ddl.of_all_tenants("budgets"), ddl.of_all_tenants("timers"):
        op.execute("""
            delete from timers where kind = 'rollover'
            and (tenant_id, resource_id) in (select tenant_id, id from budgets where not recurring)""")
        op.execute("update budgets set state = 'ACTIVE' where state = 'CLOSING' and carried_forward is null")
