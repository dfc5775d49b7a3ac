"""Errors of contracts and renewals."""

from collections.abc import Sequence
from datetime import date
from typing import Any
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition
from kit.resources import ResourceNotFound, StateForbids


class ContractNotFound(ResourceNotFound):
    reason = "CONTRACT_NOT_FOUND"
    kind = ids.CONTRACT


class ContractStateForbids(StateForbids):
    reason = "CONTRACT_STATE"
    kind = ids.CONTRACT


class _ContractRefusal(FailedPrecondition):
    """An error that names its contract; `problem` is the part of the message after "The contract con_…"."""

    def __init__(self, contract_id: UUID, problem: str, **metadata: Any) -> None:
        text = ids.CONTRACT.format(contract_id)
        super().__init__(f"The contract {text} {problem}.", contract_id=text, **metadata)


class ContractNumberTaken(AlreadyExists):
    reason = "CONTRACT_NUMBER_TAKEN"

    def __init__(self, number: str) -> None:
        super().__init__(f"Another contract already has the contract_number {number!r}.", contract_number=number)


class ContractAlreadySigned(AlreadyExists):
    reason = "CONTRACT_ALREADY_SIGNED"

    def __init__(self, contract_id: UUID, party: str) -> None:
        text = ids.CONTRACT.format(contract_id)
        super().__init__(f"The party {party} has already signed the contract {text}.", contract_id=text, party=party)


class ContractDigestDiffers(FailedPrecondition):
    reason = "CONTRACT_DIGEST_DIFFERS"

    def __init__(self, contract_id: UUID, *, given: str, signed: str) -> None:
        text = ids.CONTRACT.format(contract_id)
        super().__init__(
            f"Both parties must sign the same document; for the contract {text} the other party signed the one with the"
            f" document_digest {signed}.",
            contract_id=text,
            given=given,
            signed=signed,
        )


class ContractSignatureMissing(_ContractRefusal):
    reason = "CONTRACT_SIGNATURE_MISSING"

    def __init__(self, contract_id: UUID, missing: Sequence[str]) -> None:
        problem = f"can't be activated before it is signed by {' and '.join(missing)}"
        super().__init__(contract_id, problem, missing=missing)


class ContractTermOver(_ContractRefusal):
    reason = "CONTRACT_TERM_OVER"

    def __init__(self, contract_id: UUID, end_date: date) -> None:
        problem = f"can't be activated: its term is over, its end_date is {end_date}"
        super().__init__(contract_id, problem, end_date=end_date)


class ContractAlreadyRenewed(_ContractRefusal):
    reason = "CONTRACT_ALREADY_RENEWED"

    def __init__(self, contract_id: UUID, successor_id: UUID) -> None:
        successor = ids.CONTRACT.format(successor_id)
        super().__init__(contract_id, f"already has the successor {successor}", renewed_to_id=successor)


class ContractEvergreen(_ContractRefusal):
    reason = "CONTRACT_EVERGREEN"

    def __init__(self, contract_id: UUID) -> None:
        super().__init__(contract_id, "can't be renewed: it is evergreen and has no end_date")


class ContractIsTerminated(_ContractRefusal):
    reason = "CONTRACT_IS_TERMINATED"

    def __init__(self, contract_id: UUID, termination_date: date) -> None:
        problem = f"can't be extended: it is terminated as of {termination_date}"
        super().__init__(contract_id, problem, termination_date=termination_date)


class ContractNotTerminated(FailedPrecondition):
    reason = "CONTRACT_NOT_TERMINATED"

    def __init__(self, contract_id: UUID, termination_date: date | None) -> None:
        text = ids.CONTRACT.format(contract_id)
        problem = f"took effect on {termination_date}" if termination_date else "does not exist"
        super().__init__(
            f"The termination of the contract {text} can't be withdrawn: it {problem}.",
            contract_id=text,
            termination_date=termination_date or "",
        )


class ContractNoticeTooShort(_ContractRefusal):
    reason = "CONTRACT_NOTICE_TOO_SHORT"

    def __init__(self, contract_id: UUID, *, effective: date, earliest: date, notice_days: int) -> None:
        super().__init__(
            contract_id,
            f"can't be terminated without cause before {earliest}: its notice period is {notice_days} days",
            effective_date=effective,
            earliest_date=earliest,
            notice_days=notice_days,
        )


class ContractNoticeOver(_ContractRefusal):
    reason = "CONTRACT_NOTICE_OVER"

    def __init__(self, contract_id: UUID, *, notice_date: date, end_date: date, renewed: bool) -> None:
        if renewed:
            outcome = (
                f"it renews automatically on {end_date}. It can still be terminated for cause, auto_renew can be"
                " changed by an amendment before that day, and its renewal can be terminated with notice"
            )
        else:
            outcome = (
                f"it ends on {end_date} without a termination. It can still be terminated for cause before that day"
            )
        super().__init__(
            contract_id,
            f"can't be terminated without cause any more: notice was due by {notice_date}, and {outcome}",
            notice_date=notice_date,
            end_date=end_date,
            auto_renew=str(renewed).lower(),
        )


class EntityHasActiveContracts(FailedPrecondition):
    reason = "ENTITY_HAS_ACTIVE_CONTRACTS"

    def __init__(self, entity_id: UUID, contracts: Sequence[UUID]) -> None:
        text, listed = ids.ENTITY.format(entity_id), [ids.CONTRACT.format(contract) for contract in contracts]
        super().__init__(
            f"The entity {text} has contracts in force, including {', '.join(listed)}; terminate them first.",
            entity_id=text,
            contract_ids=listed,
        )


class ContractOfOtherEntity(FailedPrecondition):
    reason = "CONTRACT_OF_OTHER_ENTITY"

    def __init__(self, contract_id: UUID, entity_id: UUID) -> None:
        contract, entity = ids.CONTRACT.format(contract_id), ids.ENTITY.format(entity_id)
        super().__init__(
            f"The contract {contract} does not belong to the entity {entity}.", contract_id=contract, entity_id=entity
        )


class ContractNotInForce(_ContractRefusal):
    reason = "CONTRACT_NOT_IN_FORCE"

    def __init__(self, contract_id: UUID, day: date, start: date | None, end: date | None) -> None:
        """Without `start` for a contract that was not activated; without `end` for one without a known end."""
        if start is None:
            days = "it was not activated"
        else:
            days = f"it is in force from {start} on" + (f", until before {end}" if end else "")
        super().__init__(
            contract_id,
            f"is not in force on {day}, the date of the cost: {days}",
            allocation_date=day,
            start_date=start,
            end_date=end,
        )
