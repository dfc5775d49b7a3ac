"""Give lists of entities, departments and exchange rates an index for each filter.

Under row-level security an index is used for `=` of text, but not of an enum type, so the filtered columns become text
with a CHECK. For ILIKE no index is used at all: a search for a part of a name reads the names of the tenant in the
order of the primary key until the page is full.

A service of an earlier version compares with the enum types, which are gone: stop it before this runs.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

_SLOW = (
    "changing-column-type",
    "ban-drop-type",
    "constraint-missing-not-valid",
    "require-concurrent-index-creation",
    "require-concurrent-index-deletion",
)
_TEXTS = {
    "billing_entities": {"entity_type": "entity_type", "state": "entity_state"},
    "departments": {"state": "department_state"},
}
"""The columns of each table with their former enum types."""
_VALUES = {
    "entity_type": ("HOLDING", "SUBSIDIARY", "DIVISION", "BRANCH"),
    "entity_state": ("ACTIVE", "INACTIVE"),
    "department_state": ("ACTIVE", "INACTIVE"),
}
_INDEXES = {
    "billing_entities_state_idx": "billing_entities (tenant_id, state, id)",
    "billing_entities_type_idx": "billing_entities (tenant_id, entity_type, id)",
    "departments_state_idx": "departments (tenant_id, state, id)",
    "exchange_rates_base_idx": "exchange_rates (tenant_id, base_currency, id)",
    "exchange_rates_date_idx": "exchange_rates (tenant_id, effective_date, id)",
}


def _briefly(statement: str) -> None:
    """Run a statement that rewrites a small table or builds an index; it waits at most 300 ms for a lock."""
    op.execute(f"-- squawk-ignore {', '.join(_SLOW)}\n{statement}")


def upgrade() -> None:
    for table, columns in _TEXTS.items():
        changes = [
            f"alter {column} type text using {column}::text, add constraint {table}_{column}_check"
            f" check ({column} in {_VALUES[kind]})"
            for column, kind in columns.items()
        ]
        _briefly(f"alter table {table} {', '.join(changes)}")
    for kind in _VALUES:
        _briefly(f"drop type {kind}")
    for name, indexed in _INDEXES.items():
        _briefly(f"create index {name} on {indexed}")


def downgrade() -> None:
    for name in _INDEXES:
        _briefly(f"drop index {name}")
    for kind, values in _VALUES.items():
        op.execute(f"create type {kind} as enum {values}")
    for table, columns in _TEXTS.items():
        changes = [
            f"drop constraint {table}_{column}_check, alter {column} type {kind} using {column}::{kind}"
            for column, kind in columns.items()
        ]
        _briefly(f"alter table {table} {', '.join(changes)}")
