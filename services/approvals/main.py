"""Composition root of the approvals service: settings, database, clients, servicers, consumers, timers."""

from functools import partial

from eventing.bus import EventBus
from eventing.timers import Timers
from kit.db import Database
from kit.settings import Settings
from services.approvals import rpc, timers
from services.approvals.clients import Clients
from services.approvals.events.consumers import HANDLERS, Dependencies
from services.approvals.service.opening import OpeningSaga
from serving.pages import Pages
from serving.server import Service, run


def compose(settings: Settings) -> Service:
    """Create the parts of the service and connect them."""
    db, bus = Database(settings), EventBus()
    clients = Clients(settings, bus)
    opening = OpeningSaga(db, clients)
    run_timers = Timers(db, settings.service, timers.HANDLERS, opening).run
    return Service(
        db=db,
        scopes=clients.scopes,
        servicers=rpc.servicers(db, Pages(settings), clients, opening, bus=bus),
        handlers=HANDLERS,
        dependencies=Dependencies(db, clients, opening),
        jobs=[clients.rates.evict_changed, run_timers, partial(timers.measure_periodically, db)],
        bus=bus,
    )


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    run("approvals", compose)


if __name__ == "__main__":
    main()
