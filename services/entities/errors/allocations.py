"""Errors of allocations and cost reports."""

from collections.abc import Sequence
from datetime import date
from typing import Any
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, BillingError, FailedPrecondition
from kit.money import Money
from kit.resources import ResourceNotFound


class AllocationNotFound(ResourceNotFound):
    reason = "ALLOCATION_NOT_FOUND"
    kind = ids.ALLOCATION


class AllocationSourceTaken(AlreadyExists):
    reason = "ALLOCATION_SOURCE_TAKEN"

    def __init__(
        self,
        source: str,
        source_ref: str,
        existing_id: UUID | None = None,
        differs: Sequence[str] = (),
        *,
        split_id: UUID | None = None,
        credit_ids: Sequence[UUID] = (),
    ) -> None:
        """Without `existing_id` if the caller may not see the existing allocation.

        `credit_ids` has the credits of an allocation of which nothing is left, the first ones of many.
        """
        allocation = ids.ALLOCATION.format(existing_id) if existing_id else None
        split = ids.COST_SPLIT.format(split_id) if split_id else None
        named = [ids.ALLOCATION.format(credit_id) for credit_id in credit_ids]
        existing = f" as {allocation}" if allocation else ""
        if existing and split:
            existing += f", which was split by {split}; to allocate it again, reverse the split"
        elif existing and named:
            existing += (
                f", which is credited in full by {', '.join(named)}; to allocate it again, use another source_ref"
            )
        elif existing:
            existing += f", which differs in {', '.join(differs)}"
        super().__init__(
            f"The cost of {source} {source_ref!r} is already allocated{existing}.",
            source=source,
            source_ref=source_ref,
            allocation_id=allocation,
            differs=differs or None,
            cost_split_id=split,
            credit_ids=named or None,
        )


class _AllocationRefusal(FailedPrecondition):
    """An error that names its allocation; `problem` is the part of the message after "The allocation alc_…"."""

    def __init__(self, allocation_id: UUID, problem: str, **metadata: Any) -> None:
        text = ids.ALLOCATION.format(allocation_id)
        super().__init__(f"The allocation {text} {problem}.", allocation_id=text, **metadata)


class AllocationAlreadyReversed(_AllocationRefusal):
    reason = "ALLOCATION_ALREADY_REVERSED"

    def __init__(self, allocation_id: UUID, reversal_id: UUID) -> None:
        reversal = ids.ALLOCATION.format(reversal_id)
        super().__init__(allocation_id, f"is already reversed by {reversal}", reversal_id=reversal)


class AllocationIsReversal(_AllocationRefusal):
    reason = "ALLOCATION_IS_REVERSAL"

    def __init__(self, allocation_id: UUID) -> None:
        super().__init__(allocation_id, "is a reversal and can't be reversed; allocate the cost again")


class AllocationIsCredit(_AllocationRefusal):
    reason = "ALLOCATION_IS_CREDIT"

    def __init__(self, allocation_id: UUID) -> None:
        super().__init__(allocation_id, "is a credit, which can't be reversed or credited; allocate the cost again")


class AllocationFullyCredited(_AllocationRefusal):
    reason = "ALLOCATION_FULLY_CREDITED"

    def __init__(self, allocation_id: UUID) -> None:
        super().__init__(allocation_id, "is credited in full, so nothing is left of it")


class CreditExceedsAllocation(FailedPrecondition):
    reason = "CREDIT_EXCEEDS_ALLOCATION"

    def __init__(self, allocation_id: UUID, *, requested: Money, available: Money) -> None:
        text = ids.ALLOCATION.format(allocation_id)
        super().__init__(
            f"At most {available} of the allocation {text} can be credited, not {requested}.",
            allocation_id=text,
            requested=requested.text(),
            available=available.text(),
            currency_code=available.currency,
        )


class AllocationDateTooFar(FailedPrecondition):
    reason = "ALLOCATION_DATE_TOO_FAR"

    def __init__(self, day: date, latest: date) -> None:
        super().__init__(
            f"The date of a cost can be {latest} at the latest, not {day}.", allocation_date=day, latest_date=latest
        )


class BatchRefused(FailedPrecondition):
    reason = "BATCH_REFUSED"

    def __init__(self, index: int, refusal: BillingError) -> None:
        super().__init__(
            f"Nothing was allocated, since allocations[{index}] is refused: {refusal.message}",
            line=f"allocations[{index}]",
            line_reason=refusal.reason,
        )
        self.metadata |= refusal.metadata


class TooManyCostGroups(FailedPrecondition):
    reason = "TOO_MANY_COST_GROUPS"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The report has more than {limit} groups and currencies; group by fewer fields, or request fewer costs.",
            limit=limit,
        )
