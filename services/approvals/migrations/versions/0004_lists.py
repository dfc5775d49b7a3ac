"""Indexes for lists of requests by amount and by the actor of an action.

Under row-level security, an index is used for comparisons of integers, not of numerics. So lists compare amounts
without their fraction first, by an index, and exactly afterwards.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

_SLOW = "require-concurrent-index-creation, require-concurrent-index-deletion, adding-field-with-default"


def _locking(statement: str) -> None:
    """Execute a statement that locks a table, which is small or has just been locked; it waits at most 300 ms."""
    op.execute(f"-- squawk-ignore {_SLOW}\n{statement}")


def upgrade() -> None:
    whole_amount = "whole_amount bigint generated always as (floor(amount)::bigint) stored"
    _locking(f"alter table approval_requests add column {whole_amount}")
    _locking("drop index approval_requests_amount_idx")
    _locking("create index approval_requests_amount_idx on approval_requests (tenant_id, currency_code, whole_amount)")
    _locking("create index approval_actions_actor_idx on approval_actions (tenant_id, actor, approval_id)")


def downgrade() -> None:
    _locking("drop index approval_actions_actor_idx")
    _locking("drop index approval_requests_amount_idx")
    _locking("create index approval_requests_amount_idx on approval_requests (tenant_id, currency_code, amount)")
    op.execute("alter table approval_requests drop column whole_amount")
