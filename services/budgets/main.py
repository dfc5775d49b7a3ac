"""What the process of the budgets service is made of."""

from eventing.bus import EventBus
from eventing.timers import Timers
from kit.db import Database
from kit.settings import Settings
from services.budgets import events, rpc, timers
from services.budgets.clients import Clients
from services.budgets.ledger import Ledger
from services.budgets.service.funds import Funds
from services.budgets.service.usage import Usage
from serving.pages import Pages
from serving.server import Service, run


def compose(settings: Settings) -> Service:
    """The parts of the service."""
    db, bus = Database(settings), EventBus()
    clients = Clients(settings, bus)
    ledger = Ledger(settings, clients.rates, db.appended)
    usage, funds = Usage(settings, db, ledger), Funds(db, ledger)
    clock = Timers(db, settings.service, timers.timers(ledger))
    return Service(
        db=db,
        scopes=clients.scopes,
        servicers=[rpc.BudgetServicer(db, Pages(settings), clients, ledger, funds, bus=bus)],
        handlers=events.handlers(usage, funds),
        jobs=[ledger.run, usage.run, clients.rates.evict_changed, clock.run],
        bus=bus,
    )


def main() -> None:
    """Serve until told to stop."""
    run("budgets", compose)


if __name__ == "__main__":
    main()
