"""What the process of the entities service is made of."""

from clients.directory import Directory
from eventing.timers import Timers
from kit.db import Database
from kit.settings import Settings
from services.entities import rpc, timers
from services.entities.clients import Approvals
from services.entities.events.heard import handlers
from services.entities.rpc.scopes import LocalScopes
from serving.pages import Pages
from serving.server import Service, run


def compose(settings: Settings) -> Service:
    """The parts of the service."""
    db = Database(settings)
    directory = Directory(settings)
    return Service(
        db=db,
        scopes=LocalScopes(db),
        servicers=rpc.servicers(db, Pages(settings), directory, Approvals(settings)),
        handlers=handlers(db, directory),
        jobs=[Timers(db, settings.service, timers.HANDLERS).run],
    )


def main() -> None:
    """Serve until told to stop."""
    run("entities", compose)


if __name__ == "__main__":
    main()
