"""What is refused of amendments."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from kit import ids
from kit.errors import FailedPrecondition
from kit.resources import ResourceNotFound, StateForbids


class AmendmentNotFound(ResourceNotFound):
    reason = "AMENDMENT_NOT_FOUND"
    kind = ids.AMENDMENT


class AmendmentStateForbids(StateForbids):
    reason = "AMENDMENT_STATE"
    kind = ids.AMENDMENT


class AmendmentStale(FailedPrecondition):
    reason = "AMENDMENT_STALE"

    def __init__(self, amendment_id: UUID, changed: Sequence[str]) -> None:
        text = ids.AMENDMENT.format(amendment_id)
        super().__init__(
            f"The contract is not any more what the amendment {text} was made for: {', '.join(changed)} changed since."
            " Make another one.",
            amendment_id=text,
            changed=changed,
        )


class AmendmentNotDue(FailedPrecondition):
    reason = "AMENDMENT_NOT_DUE"

    def __init__(self, amendment_id: UUID, effective: date) -> None:
        text = ids.AMENDMENT.format(amendment_id)
        super().__init__(
            f"The amendment {text} takes effect on {effective}, by itself.", amendment_id=text, effective_date=effective
        )


class AmendmentOutsideTerm(FailedPrecondition):
    reason = "AMENDMENT_OUTSIDE_TERM"

    def __init__(self, contract_id: UUID, *, effective: date, start: date, end: date | None) -> None:
        text = ids.CONTRACT.format(contract_id)
        super().__init__(
            f"An amendment takes effect while the contract {text} holds, from {start} on"
            + (f" and before {end}" if end else "")
            + f"; {effective} is outside.",
            contract_id=text,
            effective_date=effective,
            start_date=start,
            end_date=end,
        )


class AmendmentAwaitsApproval(FailedPrecondition):
    reason = "AMENDMENT_AWAITS_APPROVAL"

    def __init__(self, id: UUID) -> None:
        text = ids.AMENDMENT.format(id)
        super().__init__(
            f"The approval request about the amendment {text} is undecided: what comes of it approves or rejects it.",
            amendment_id=text,
        )
