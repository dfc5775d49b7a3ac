"""Asking user management about those whom rules name."""

import asyncio
from collections.abc import Sequence

from kit.origin import Origin
from services.approvals.clients import Clients, Lineage
from services.approvals.domain.people import People, lay_out, named
from services.approvals.domain.routes import Route
from services.approvals.domain.rules import Facts
from services.approvals.domain.seats import Panel


async def find_panel(clients: Clients, origin: Origin, route: Route, facts: Facts, lineage: Lineage) -> Panel:
    """Who is asked; raises ApproverMissing, or Unavailable where user management does not answer."""
    place = lineage.place
    users = sorted(named(route, facts, place))
    known = await asyncio.gather(*(clients.directory.find(origin, user_id) for user_id in users))
    gone = {user_id for user_id, person in zip(users, known, strict=True) if person is None or not person.active}
    replaced = sorted(gone | ({facts.requester} & set(users)))
    managers = await asyncio.gather(*(_active_managers(clients, origin, user_id) for user_id in replaced))
    people = People(managers=dict(zip(replaced, managers, strict=True)), gone=frozenset(gone) - {facts.requester})
    return lay_out(route, facts, place, people)


async def _active_managers(clients: Clients, origin: Origin, user_id: str) -> Sequence[str]:
    managers = await clients.directory.managers(origin, user_id)
    return [person.user_id for person in managers if person.active and person.user_id != user_id]
