"""What the handlers of events and timers get besides the event or the id of the resource."""

from dataclasses import dataclass

from services.budgets.ledger import Ledger
from services.budgets.service.funds import Funds
from services.budgets.service.usage import Usage


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Objects with connections of their own, built once in main.py."""

    ledger: Ledger
    usage: Usage
    funds: Funds
