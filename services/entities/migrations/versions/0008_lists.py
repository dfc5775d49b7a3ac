"""Lists of entities, departments and exchange rates read an index for whatever they are filtered by.

Under row-level security an index is read for `=` of text, not of an enum type: what lists are filtered by becomes text
with a CHECK. Nor is one read for ILIKE, whatever it is made of: to look for a piece of a name, the names of the tenant
are read in the order of the primary key until the page is full.

A service of an earlier version compares with the enum types, which are gone: it is stopped before this runs.
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
"""The columns of each table, and the enum types that they were of."""
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
    """A statement that writes a table anew which is small yet, or what follows; it gives way to others after 300 ms."""
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
