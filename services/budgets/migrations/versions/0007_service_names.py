"""Idempotency keys move with their RPCs from BudgetService to LedgerService and AlertService.

A key is stored with the full name of its method: without this, a repeated charge would be carried out a second time.
"""

from alembic import op

from deploy import ddl

revision = "0007"
down_revision = "0006"

_MOVED = {
    "LedgerService": (
        "Charge", "RefundCharge", "CreateHold", "CommitHold", "CaptureHold", "ReleaseHold", "HoldForApproval",
    ),
    "AlertService": ("AcknowledgeAlert",),
}  # fmt: skip
_PACKAGE = "billing.budgets.v1."


def upgrade() -> None:
    with ddl.of_all_tenants("idempotency_keys"):
        for service, methods in _MOVED.items():
            _rename("BudgetService", service, methods)


def downgrade() -> None:
    with ddl.of_all_tenants("idempotency_keys"):
        for service, methods in _MOVED.items():
            _rename(service, "BudgetService", methods)


def _rename(old: str, new: str, methods: tuple[str, ...]) -> None:
    """Rename the service of the stored methods."""
    for method in methods:
        op.execute(
            f"update idempotency_keys set method = '{_PACKAGE}{new}/{method}' where method = '{_PACKAGE}{old}/{method}'"
        )
