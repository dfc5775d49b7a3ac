"""The dependencies that main.py passes to RPCs and to the handlers of events and timers."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from kit.db import Database
from kit.settings import Settings
from services.budgets.ledger import Ledger
from services.budgets.service.allocated_costs import AllocatedCosts
from services.budgets.service.approval_holds import ApprovalHolds


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The parts of the service that have connections of their own."""

    ledger: Ledger
    allocated_costs: AllocatedCosts
    approval_holds: ApprovalHolds

    @classmethod
    def build(cls, settings: Settings, db: Database, ledger: Ledger) -> "Dependencies":
        """Build the parts that post to `ledger`."""
        return cls(ledger, AllocatedCosts(settings, db, ledger), ApprovalHolds(db, ledger))

    @property
    def jobs(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """The jobs that run until the service stops and then close the connections."""
        return self.ledger.run, self.allocated_costs.run
