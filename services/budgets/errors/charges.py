"""Errors about charges, refunds and ledger entries."""

from uuid import UUID

from kit import ids
from kit.errors import BillingError, FailedPrecondition, NotFound
from kit.money import Money
from kit.resources import ResourceNotFound


class EntryNotFound(ResourceNotFound):
    reason = "ENTRY_NOT_FOUND"
    kind = ids.ENTRY


class ChargeNotFound(NotFound):
    reason = "CHARGE_NOT_FOUND"

    def __init__(self, key: str) -> None:
        super().__init__(f"There is no charge with the idempotency key {key!r}.", request_id=key)


class RefundExceedsCharge(FailedPrecondition):
    reason = "REFUND_EXCEEDS_CHARGE"

    def __init__(self, charge_id: UUID, *, requested: Money, available: Money) -> None:
        text = ids.ENTRY.format(charge_id)
        super().__init__(
            f"At most {available} of the charge {text} can still be refunded; {requested} exceeds it.",
            charge_id=text,
            requested=requested.text(),
            available=available.text(),
            currency_code=available.currency,
        )


class BatchRefused(FailedPrecondition):
    reason = "BATCH_REFUSED"

    def __init__(self, index: int, refusal: BillingError) -> None:
        self.index = index
        self.refusal = refusal
        super().__init__(
            f"No charge was accepted, because charges[{index}] is rejected: {refusal.message}",
            line=f"charges[{index}]",
            line_reason=refusal.reason,
        )
        self.metadata |= refusal.metadata
