"""Composition root of the entities service: settings, database, clients, servicers, consumers, timers."""

from eventing.timers import Timers
from kit.db import Database
from kit.settings import Settings
from rendering.renderer import Renderer
from services.entities import rpc, timers
from services.entities.clients import Clients
from services.entities.events.consumers import HANDLERS, Dependencies
from services.entities.rpc.scopes import LocalScopes
from services.entities.service.usage import UsageIntake
from serving.pages import Pages
from serving.server import Service, run


def compose(settings: Settings) -> Service:
    """Create the parts of the service and connect them."""
    db = Database(settings)
    clients = Clients(settings)
    return Service(
        db=db,
        scopes=LocalScopes(db),
        servicers=rpc.servicers(db, Pages(settings), clients, Renderer(settings)),
        handlers=HANDLERS,
        dependencies=Dependencies(db, clients, UsageIntake(db)),
        jobs=[Timers(db, settings.service, timers.HANDLERS).run, timers.invoice_runs(db, settings.service).run],
    )


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    run("entities", compose)


if __name__ == "__main__":
    main()
