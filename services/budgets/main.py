"""What the process of the budgets service is made of."""

from kit.db import Database
from kit.settings import Settings
from services.budgets import events
from services.budgets.peers import Owners
from services.budgets.rpc import BudgetServicer
from serving.clients import Peer
from serving.pages import Pages
from serving.scope import RemoteScopes
from serving.server import Service, run


def compose(settings: Settings) -> Service:
    """The parts of the service."""
    db = Database(settings)
    entities = Peer(settings, "entities")
    return Service(
        db=db,
        scopes=RemoteScopes(entities),
        servicers=[BudgetServicer(db, Pages(settings), Owners(entities))],
        handlers=events.HANDLERS,
    )


def main() -> None:
    """Serve until told to stop."""
    run("budgets", compose)


if __name__ == "__main__":
    main()
