"""Approvers who left."""

from typing import Final

from kit.db import Database
from kit.origin import Origin
from services.approvals.clients import Clients
from services.approvals.domain import panels
from services.approvals.domain.lives import ApprovalState
from services.approvals.service.requests import apply
from services.approvals.store import requests

_AT_ONCE: Final = 50


async def replace_approver(db: Database, clients: Clients, origin: Origin, user_id: str) -> None:
    """Replace an approver who left by their nearest active manager who may decide, else by the escalation approver.

    Pending approvals are updated in batches, each approval in a transaction of its own.
    """
    managers = await clients.directory.managers(origin, user_id)
    active = [one.user_id for one in managers if one.active and one.user_id != user_id]
    after = None
    while True:
        async with db.read(origin) as tx:
            waiting = await requests.find_sat_in(tx, user_id, after, _AT_ONCE)
        for approval_id in waiting:
            async with db.write(origin) as tx:
                row = await requests.find_request(tx, approval_id)
                if row is not None and row.state is ApprovalState.PENDING:
                    change = panels.replace_user(row.panel, user_id, active)
                    if change.records:
                        await apply(tx, row, change)
        if len(waiting) < _AT_ONCE:
            return
        after = waiting[-1]
