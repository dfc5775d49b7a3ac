"""The ledger: the only part that changes the balances of budgets. It is imported from here, not from its modules."""

from services.budgets.ledger.ledger import Ledger
from services.budgets.ledger.outcomes import LedgerCodec, PostingOutcome
from services.budgets.ledger.store import LedgerConnection, append_entries, raise_alerts, resolve_alerts

__all__ = [
    "Ledger",
    "LedgerCodec",
    "LedgerConnection",
    "PostingOutcome",
    "append_entries",
    "raise_alerts",
    "resolve_alerts",
]
