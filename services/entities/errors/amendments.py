"""Errors of amendments."""

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
            f"The amendment {text} is stale: since its creation the contract has changed in {', '.join(changed)}."
            " Create a new amendment.",
            amendment_id=text,
            changed=changed,
        )


class AmendmentNotDue(FailedPrecondition):
    reason = "AMENDMENT_NOT_DUE"

    def __init__(self, amendment_id: UUID, effective: date) -> None:
        text = ids.AMENDMENT.format(amendment_id)
        super().__init__(
            f"The amendment {text} can't be applied before its effective_date, {effective}; it is applied automatically"
            " then.",
            amendment_id=text,
            effective_date=effective,
        )


class AmendmentOutsideTerm(FailedPrecondition):
    reason = "AMENDMENT_OUTSIDE_TERM"

    def __init__(self, contract_id: UUID, *, effective: date, start: date, end: date | None) -> None:
        text = ids.CONTRACT.format(contract_id)
        super().__init__(
            f"The effective_date {effective} is outside the term of the contract {text}: it must be {start} or later"
            + (f" and before {end}." if end else "."),
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
            f"The approval request for the amendment {text} is still undecided; its outcome approves or rejects the"
            " amendment.",
            amendment_id=text,
        )
