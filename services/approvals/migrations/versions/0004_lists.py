"""Lists of requests read an index for amounts and for what somebody did.

Under row-level security an index is read for comparisons of integers, not of numerics: amounts are looked for by what
they are without their fraction, and compared exactly afterwards.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

_SLOW = "require-concurrent-index-creation, require-concurrent-index-deletion, adding-field-with-default"


def _briefly(statement: str) -> None:
    """A statement that writes a table anew which is small yet, or what follows; it gives way to others after 300 ms."""
    op.execute(f"-- squawk-ignore {_SLOW}\n{statement}")


def upgrade() -> None:
    whole_amount = "whole_amount bigint generated always as (floor(amount)::bigint) stored"
    _briefly(f"alter table approval_requests add column {whole_amount}")
    _briefly("drop index approval_requests_amount_idx")
    _briefly("create index approval_requests_amount_idx on approval_requests (tenant_id, currency_code, whole_amount)")
    _briefly("create index approval_actions_actor_idx on approval_actions (tenant_id, actor, approval_id)")


def downgrade() -> None:
    _briefly("drop index approval_actions_actor_idx")
    _briefly("drop index approval_requests_amount_idx")
    _briefly("create index approval_requests_amount_idx on approval_requests (tenant_id, currency_code, amount)")
    op.execute("alter table approval_requests drop column whole_amount")
