"""What the clock does to requests."""

from collections.abc import Sequence
from uuid import UUID

from eventing.timers import TimerHandler, due, due_outside
from kit.db import WriteSession
from kit.origin import Origin
from services.approvals.service import requests
from services.approvals.service.opening import Opening
from services.approvals.service.requests import CLOCK, OPENING


@due(CLOCK)
async def look_at_request(tx: WriteSession, approval_id: UUID) -> None:
    """Remind those who are asked, escalate, or end a request."""
    await requests.tick(tx, approval_id)


def timers(opening: Opening) -> Sequence[TimerHandler]:
    """The handlers of all timers of this service."""

    @due_outside(OPENING)
    async def finish_opening(origin: Origin, approval_id: UUID) -> None:
        """Finish or undo what a replica left undone."""
        await opening.recover(origin, approval_id)

    return look_at_request, finish_opening
