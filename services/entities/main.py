"""What the process of the entities service is made of."""

from kit.db import Database
from kit.settings import Settings
from services.entities import events
from services.entities.rpc.departments import DepartmentServicer
from services.entities.rpc.entities import EntityServicer
from services.entities.rpc.rates import ExchangeRateServicer
from services.entities.rpc.scopes import LocalScopes
from serving.pages import Pages
from serving.server import Service, run


def compose(settings: Settings) -> Service:
    """The parts of the service."""
    db = Database(settings)
    pages = Pages(settings)
    return Service(
        db=db,
        scopes=LocalScopes(db),
        servicers=[EntityServicer(db, pages), DepartmentServicer(db, pages), ExchangeRateServicer(db, pages)],
        handlers=events.HANDLERS,
    )


def main() -> None:
    """Serve until told to stop."""
    run("entities", compose)


if __name__ == "__main__":
    main()
