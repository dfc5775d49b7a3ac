"""Errors about holds."""

from datetime import datetime
from uuid import UUID

from kit import ids
from kit.errors import FailedPrecondition
from kit.money import Money
from kit.resources import ResourceNotFound, StateForbids


class HoldNotFound(ResourceNotFound):
    reason = "HOLD_NOT_FOUND"
    kind = ids.HOLD


class HoldStateForbids(StateForbids):
    reason = "HOLD_STATE"
    kind = ids.HOLD


class HoldExpired(FailedPrecondition):
    reason = "HOLD_EXPIRED"

    def __init__(self, hold_id: UUID, *, expired: datetime) -> None:
        text = ids.HOLD.format(hold_id)
        super().__init__(
            f"The hold {text} expired at {expired.isoformat()}; create a new one.",
            hold_id=text,
            expire_time=expired.isoformat(),
        )


class HoldAwaitsApproval(FailedPrecondition):
    reason = "HOLD_AWAITS_APPROVAL"

    def __init__(self, hold_id: UUID, approval_id: UUID) -> None:
        text, approval = ids.HOLD.format(hold_id), ids.APPROVAL.format(approval_id)
        super().__init__(
            f"The hold {text} belongs to the pending approval request {approval}, which commits or releases it.",
            hold_id=text,
            approval_id=approval,
        )


class HoldExceeded(FailedPrecondition):
    reason = "HOLD_EXCEEDED"

    def __init__(self, hold_id: UUID, *, requested: Money, available: Money) -> None:
        text = ids.HOLD.format(hold_id)
        super().__init__(
            f"{available} of the hold {text} are left; {requested} exceeds it.",
            hold_id=text,
            requested=requested.text(),
            available=available.text(),
            currency_code=available.currency,
        )
