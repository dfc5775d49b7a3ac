"""What the budgets service refuses, and how it says so; the reasons are documented in errors.proto."""

from datetime import date, datetime
from uuid import UUID

from kit import ids
from kit.errors import BillingError, FailedPrecondition, NotFound
from kit.money import Money
from kit.resources import ResourceNotFound, StateForbids


class BudgetNotFound(ResourceNotFound):
    reason = "BUDGET_NOT_FOUND"
    kind = ids.BUDGET


class BudgetStateForbids(StateForbids):
    reason = "BUDGET_STATE"
    kind = ids.BUDGET


class _TooLittle(FailedPrecondition):
    def __init__(self, budget_id: UUID, name: str, *, requested: Money, available: Money, limit: Money) -> None:
        self.id = budget_id
        text, short = ids.BUDGET.format(budget_id), requested - available
        super().__init__(
            f"The budget {name!r} ({text}) has {available} available; {requested} is {short} too much.{self.advice}",
            budget_id=text,
            currency_code=requested.currency,
            requested=requested.text(),
            available=available.text(),
            short=short.text(),
            amount=limit.text(),
        )

    advice = ""


class BudgetExceeded(_TooLittle):
    reason = "BUDGET_EXCEEDED"


class ApprovalRequired(_TooLittle):
    reason = "APPROVAL_REQUIRED"
    advice = " It takes more only when somebody approves it."


class OutsidePeriod(FailedPrecondition):
    reason = "OUTSIDE_PERIOD"

    def __init__(self, budget_id: UUID, *, at: datetime, starts: datetime, ends: datetime) -> None:
        self.id = budget_id
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"{at.isoformat()} is outside the period of the budget {text},"
            f" which is from {starts.isoformat()} until before {ends.isoformat()}.",
            budget_id=text,
            period_start_time=starts.isoformat(),
            period_end_time=ends.isoformat(),
        )


class CurrencyMismatch(FailedPrecondition):
    reason = "CURRENCY_MISMATCH"

    def __init__(self, budget_id: UUID, *, given: str, currency: str) -> None:
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"The budget {text} is in {currency}, not in {given}.",
            budget_id=text,
            given=given,
            currency_code=currency,
        )


class AmountBelowSpent(FailedPrecondition):
    reason = "AMOUNT_BELOW_SPENT"

    def __init__(self, budget_id: UUID, *, amount: Money, spent: Money) -> None:
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"{spent} of the budget {text} is spent; its amount can't be lowered to {amount}.",
            budget_id=text,
            amount=amount.text(),
            spent=spent.text(),
            currency_code=amount.currency,
        )


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
            f"The hold {text} expired at {expired.isoformat()}; make a new one.",
            hold_id=text,
            expire_time=expired.isoformat(),
        )


class HoldAwaitsApproval(FailedPrecondition):
    reason = "HOLD_AWAITS_APPROVAL"

    def __init__(self, hold_id: UUID, approval_id: UUID) -> None:
        text, awaited = ids.HOLD.format(hold_id), ids.APPROVAL.format(approval_id)
        super().__init__(
            f"The hold {text} is for the approval request {awaited}, which is undecided: what comes of that commits or"
            " releases it.",
            hold_id=text,
            approval_id=awaited,
        )


class HoldExceeded(FailedPrecondition):
    reason = "HOLD_EXCEEDED"

    def __init__(self, hold_id: UUID, *, requested: Money, available: Money) -> None:
        text = ids.HOLD.format(hold_id)
        super().__init__(
            f"{available} of the hold {text} is left; {requested} is too much.",
            hold_id=text,
            requested=requested.text(),
            available=available.text(),
            currency_code=available.currency,
        )


class EntryNotFound(ResourceNotFound):
    reason = "ENTRY_NOT_FOUND"
    kind = ids.ENTRY


class RefundExceedsCharge(FailedPrecondition):
    reason = "REFUND_EXCEEDS_CHARGE"

    def __init__(self, charge_id: UUID, *, requested: Money, available: Money) -> None:
        text = ids.ENTRY.format(charge_id)
        super().__init__(
            f"{available} of the charge {text} is not refunded yet; {requested} is too much.",
            charge_id=text,
            requested=requested.text(),
            available=available.text(),
            currency_code=available.currency,
        )


class AmountTooSmall(FailedPrecondition):
    reason = "AMOUNT_TOO_SMALL"

    def __init__(self, amount: Money, currency: str) -> None:
        super().__init__(
            f"{amount} is less than the smallest amount of {currency}.",
            amount=amount.text(),
            given=amount.currency,
            currency_code=currency,
        )


class BatchRefused(FailedPrecondition):
    reason = "BATCH_REFUSED"

    def __init__(self, index: int, refusal: BillingError) -> None:
        self.index = index
        self.refusal = refusal
        super().__init__(
            f"Nothing was taken, since charges[{index}] is refused: {refusal.message}",
            line=f"charges[{index}]",
            line_reason=refusal.reason,
        )
        self.metadata |= refusal.metadata


class PeriodOutsideParent(FailedPrecondition):
    reason = "PERIOD_OUTSIDE_PARENT"

    def __init__(self, parent_id: UUID, *, start: date, end: date) -> None:
        text = ids.BUDGET.format(parent_id)
        super().__init__(
            f"The period must lie within that of the budget above, {text}, from {start} until before {end}.",
            parent_id=text,
            period_start_date=start,
            period_end_date=end,
        )


class BudgetTreeTooDeep(FailedPrecondition):
    reason = "BUDGET_TREE_TOO_DEEP"

    def __init__(self, limit: int) -> None:
        super().__init__(f"There may be at most {limit} levels of budgets.", limit=limit)


class OwnerNotFound(NotFound):
    reason = "OWNER_NOT_FOUND"

    def __init__(self, owner: str) -> None:
        super().__init__(f"There is no {owner}.", owner=owner)


class OwnerInactive(FailedPrecondition):
    reason = "OWNER_INACTIVE"

    def __init__(self, owner: str) -> None:
        super().__init__(f"{owner} is not active and takes no budget.", owner=owner)


class ChargeNotFound(NotFound):
    reason = "CHARGE_NOT_FOUND"

    def __init__(self, key: str) -> None:
        super().__init__(f"No charge was made with the key {key!r}.", request_id=key)


class AlertNotFound(ResourceNotFound):
    reason = "ALERT_NOT_FOUND"
    kind = ids.ALERT


class AlertStateForbids(StateForbids):
    reason = "ALERT_STATE"
    kind = ids.ALERT


class TransferExceedsBudget(FailedPrecondition):
    reason = "TRANSFER_EXCEEDS_BUDGET"

    def __init__(self, budget_id: UUID, *, requested: Money, transferable: Money, amount: Money, used: Money) -> None:
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"At most {transferable} can leave the budget {text}; {requested} is too much."
            f" Its amount is {amount}, and {used} is spent, held or committed.",
            budget_id=text,
            currency_code=requested.currency,
            requested=requested.text(),
            transferable=transferable.text(),
            amount=amount.text(),
            used=used.text(),
        )


class PeriodNotOver(FailedPrecondition):
    reason = "PERIOD_NOT_OVER"

    def __init__(self, budget_id: UUID, *, ends: datetime) -> None:
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"The period of the budget {text} ends at {ends.isoformat()}; say `early` to roll it over before.",
            budget_id=text,
            period_end_time=ends.isoformat(),
        )


class PeriodOpened(FailedPrecondition):
    reason = "PERIOD_OPENED"

    def __init__(self, budget_id: UUID, opened_id: UUID) -> None:
        text, opened = ids.BUDGET.format(budget_id), ids.BUDGET.format(opened_id)
        super().__init__(
            f"The period after that of the budget {text} is open already: {opened}.",
            budget_id=text,
            opened_budget_id=opened,
        )


class ParentNotRolledOver(FailedPrecondition):
    reason = "PARENT_NOT_ROLLED_OVER"

    def __init__(self, budget_id: UUID, parent_id: UUID, *, start: date, end: date) -> None:
        text, parent = ids.BUDGET.format(budget_id), ids.BUDGET.format(parent_id)
        super().__init__(
            f"The next period of the budget {text}, from {start} until before {end}, does not lie within that of the"
            f" budget above, {parent}; roll that one over, and this one goes with it.",
            budget_id=text,
            parent_id=parent,
            period_start_date=start,
            period_end_date=end,
        )
