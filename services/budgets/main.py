"""Composition root of the budgets service."""

from eventing.bus import EventBus
from eventing.timers import Timers
from kit.db import Database
from kit.settings import Settings
from services.budgets import rpc, service, timers
from services.budgets.clients import Clients
from services.budgets.events.consumers import HANDLERS
from services.budgets.ledger import Ledger
from services.budgets.service.dependencies import Dependencies
from serving.pages import Pages
from serving.server import Service, run


def compose(settings: Settings) -> Service:
    """Build the service from its parts."""
    db, bus = Database(settings), EventBus()
    clients = Clients(settings, bus)
    ledger = Ledger(settings, clients.rates, db.appended)
    dependencies = Dependencies(ledger, service.usage.Usage(settings, db, ledger), service.funds.Funds(db, ledger))
    clock = Timers(db, settings.service, timers.HANDLERS, dependencies)
    return Service(
        db=db,
        scopes=clients.scopes,
        servicers=rpc.servicers(db, Pages(settings), clients, dependencies, bus),
        handlers=HANDLERS,
        dependencies=dependencies,
        jobs=[ledger.run, dependencies.usage.run, clients.rates.evict_changed, clock.run],
        bus=bus,
    )


def main() -> None:
    """Serve until SIGTERM."""
    run("budgets", compose)


if __name__ == "__main__":
    main()
