"""What the process of the budgets service is made of."""

from eventing.bus import Bus
from eventing.timers import Timers
from kit.db import Database
from kit.settings import Settings
from services.budgets import events, peers, rpc, timers
from services.budgets.ledger import Ledger
from services.budgets.service.usage import Usage
from serving.clients import Peer
from serving.pages import Pages
from serving.scope import RemoteScopes
from serving.server import Service, run


def compose(settings: Settings) -> Service:
    """The parts of the service."""
    db, bus = Database(settings), Bus()
    entities = Peer(settings, "entities")
    exchange = peers.Rates(entities, bus)
    ledger = Ledger(settings, exchange, db.appended)
    usage = Usage(settings, db, ledger)
    return Service(
        db=db,
        scopes=RemoteScopes(entities),
        servicers=[rpc.BudgetServicer(db, Pages(settings), peers.Owners(entities), exchange, ledger, bus=bus)],
        handlers=events.handlers(usage),
        jobs=[ledger.run, usage.run, exchange.forget_changed, Timers(db, settings.service, timers.timers(ledger)).run],
        bus=bus,
    )


def main() -> None:
    """Serve until told to stop."""
    run("budgets", compose)


if __name__ == "__main__":
    main()
