"""What the process of the approvals service is made of."""

from eventing.bus import EventBus
from kit.db import Database
from kit.settings import Settings
from services.approvals import rpc
from services.approvals.clients import Clients
from services.approvals.events.heard import handlers
from services.approvals.service.opening import Opening
from services.approvals.timers import jobs
from serving.pages import Pages
from serving.server import Service, run


def compose(settings: Settings) -> Service:
    """The parts of the service."""
    db, bus = Database(settings), EventBus()
    clients = Clients(settings, bus)
    opening = Opening(db, clients)
    return Service(
        db=db,
        scopes=clients.scopes,
        servicers=rpc.servicers(db, Pages(settings), clients, opening, bus=bus),
        handlers=handlers(db, clients, opening),
        jobs=[clients.rates.evict_changed, *jobs(db, settings.service, opening)],
        bus=bus,
    )


def main() -> None:
    """Serve until told to stop."""
    run("approvals", compose)


if __name__ == "__main__":
    main()
