"""Enums are text with a CHECK, as in the other services.

Under row-level security, `=` of text can use an index, `=` of an enum type cannot. A new value needs a new CHECK; an
enum type can never lose a value. The ledger's role may also update timers, so that it uses the same SQL as all others.

Stop services of earlier versions before this migration: they cast to the enum types, which it drops.
"""

from alembic import op

from deploy import ddl

revision = "0006"
down_revision = "0005"

ENGINE = "budgets_engine"

_SLOW = (
    "changing-column-type", "ban-drop-type", "ban-drop-constraint", "constraint-missing-not-valid",
    "require-concurrent-index-creation", "require-concurrent-index-deletion", "ban-drop-default",
)  # fmt: skip
_TEXTS = {
    "budgets": {
        "period_type": "period_type",
        "overspend_policy": "overspend_policy",
        "state": "budget_state",
        "rollover": "rollover",
    },
    "budget_entries": {"entry_type": "entry_type", "verdict": "charge_verdict"},
    "budget_holds": {"state": "hold_state"},
    "budget_alerts": {"alert_type": "alert_type", "state": "alert_state"},
}
"""The columns of each table with their former enum types."""
_VALUES = {
    "period_type": ("MONTHLY", "QUARTERLY", "ANNUAL", "CUSTOM"),
    "overspend_policy": ("BLOCK", "WARN", "ALLOW_WITHIN_TOLERANCE", "REQUIRE_APPROVAL"),
    "budget_state": ("DRAFT", "ACTIVE", "CLOSED"),
    "rollover": ("NONE", "FULL", "CAPPED"),
    "entry_type": (
        "CHARGE", "ADJUST", "REFUND", "HOLD", "COMMIT", "CAPTURE", "RELEASE", "EXPIRE", "TRANSFER_IN", "TRANSFER_OUT",
        "ROLLOVER_IN", "ROLLOVER_OUT",
    ),
    "charge_verdict": ("ACCEPTED", "ACCEPTED_OVERSPENT"),
    "hold_state": ("HELD", "COMMITTED", "CAPTURED", "RELEASED", "EXPIRED"),
    "alert_type": ("THRESHOLD", "OVERSPEND", "FORECAST"),
    "alert_state": ("OPEN", "ACKNOWLEDGED", "RESOLVED"),
}  # fmt: skip
_CONSTRAINTS = {
    ("budgets", "budgets_never_overspent"): (
        "spent + held + committed = 0 or case overspend_policy"
        " when 'BLOCK' then spent + held + committed <= amount + carried"
        " when 'ALLOW_WITHIN_TOLERANCE' then"
        " (spent + held + committed) * 10000 <= (amount + carried) * (10000 + tolerance_bp) else true end"
    ),
    ("budget_entries", "budget_entries_charge_check"): (
        "entry_type <> 'CHARGE' or (amount > 0 and request_id is not null and verdict is not null)"
    ),
    ("budget_holds", "budget_holds_ended_check"): ("(state in ('HELD', 'COMMITTED')) = (captured + released < amount)"),
}
"""Constraints that compare these columns with values. They read the same for text and for enum types."""
_CAP_CHECK = "(rollover = 'CAPPED') = (rollover_cap is not null)"
_CAP_CHECK_NAMES = {"enum": "budgets_rollover_check", "text": "budgets_capped_check"}
"""Renamed because the CHECK on the values of the column needs its name."""
_INDEXES = {
    "budget_alerts_mark_idx": (
        "create unique index budget_alerts_mark_idx on budget_alerts (tenant_id, budget_id, alert_type, threshold_bp)"
        " where state <> 'RESOLVED'"
    ),
    "budgets_usage_idx": (
        "create index budgets_usage_idx on budgets (tenant_id, entity_id,"
        " (case when department_id is null then '00000000-0000-0000-0000-000000000000' else department_id end),"
        " category) where state = 'ACTIVE'"
    ),
}
_DEFINITION = (
    "name", "category", "gl_code", "amount", "overspend_policy", "tolerance_bp", "alert_thresholds_bp", "state",
)  # fmt: skip
"""The audited columns of a budget."""


def _briefly(statement: str) -> None:
    """Run a statement that rewrites or scans a table that is still small; it stops waiting for a lock after 300 ms."""
    op.execute(f"-- squawk-ignore {', '.join(_SLOW)}\n{statement}")


def _release(types: str) -> None:
    """Drop everything that depends on the column types; `types` are the current ones."""
    op.execute("drop trigger budgets_audit on budgets")
    _briefly("alter table budgets alter rollover drop default")  # it has the old type; restored below
    for name in _INDEXES:
        _briefly(f"drop index {name}")
    for table, name in [*_CONSTRAINTS, ("budgets", _CAP_CHECK_NAMES[types])]:
        _briefly(f"alter table {table} drop constraint {name}")


def _restore(types: str) -> None:
    """Restore what _release() dropped; `types` are the current column types."""
    for (table, name), check in _CONSTRAINTS.items():
        _briefly(f"alter table {table} add constraint {name} check ({check})")
    _briefly(f"alter table budgets add constraint {_CAP_CHECK_NAMES[types]} check ({_CAP_CHECK})")
    for statement in _INDEXES.values():
        _briefly(statement)
    op.execute("alter table budgets alter rollover set default 'NONE'")
    ddl.audit("budgets", columns=_DEFINITION)


def upgrade() -> None:
    _release("enum")
    for table, columns in _TEXTS.items():
        changes = [
            f"alter {column} type text using {column}::text, add constraint {table}_{column}_check"
            f" check ({column} in {_VALUES[kind]})"
            for column, kind in columns.items()
        ]
        _briefly(f"alter table {table} {', '.join(changes)}")
    for kind in _VALUES:
        _briefly(f"drop type {kind}")
    _restore("text")
    op.execute(f"grant update (due_time, attempts) on timers to {ENGINE}")


def downgrade() -> None:
    op.execute(f"revoke update (due_time, attempts) on timers from {ENGINE}")
    _release("text")
    for kind, values in _VALUES.items():
        op.execute(f"create type {kind} as enum {values}")
    for table, columns in _TEXTS.items():
        changes = [
            f"drop constraint {table}_{column}_check, alter {column} type {kind} using {column}::{kind}"
            for column, kind in columns.items()
        ]
        _briefly(f"alter table {table} {', '.join(changes)}")
    _restore("enum")
