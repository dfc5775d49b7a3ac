"""What the handlers of events and timers get besides the event or the id of the resource."""

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
        """Build them around a ledger."""
        return cls(ledger, AllocatedCosts(settings, db, ledger), ApprovalHolds(db, ledger))

    @property
    def jobs(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """The jobs that run for as long as the process and close the connections at the end."""
        return self.ledger.run, self.allocated_costs.run
