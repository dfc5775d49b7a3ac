"""Errors about budgets, their owners and their limits."""

from datetime import date, datetime
from typing import ClassVar, NamedTuple
from uuid import UUID

from kit import ids
from kit.errors import FailedPrecondition, NotFound
from kit.money import Money
from kit.resources import ResourceNotFound, StateForbids


class BudgetNotFound(ResourceNotFound):
    reason = "BUDGET_NOT_FOUND"
    kind = ids.BUDGET


class BudgetRefusal(FailedPrecondition):
    """A budget refuses a posting or a rollover: the budget of the request, or one above it."""

    concealed_message: ClassVar[str]
    """The message for callers who may not see the budget."""

    id: UUID
    """The budget that refuses."""

    def concealed(self) -> FailedPrecondition:
        """Return the error for a caller who may not see the budget: without its id, name, state and numbers."""
        return self.reduced(self.concealed_message, {"requested", "currency_code"})


class BudgetStateForbids(StateForbids, BudgetRefusal):
    reason = "BUDGET_STATE"
    kind = ids.BUDGET
    concealed_message = "A budget above does not accept this in its state."


class AmountBelowSpent(FailedPrecondition):
    reason = "AMOUNT_BELOW_SPENT"

    def __init__(self, budget_id: UUID, *, amount: Money, current: Money, carried: Money, spent: Money) -> None:
        text = ids.BUDGET.format(budget_id)
        with_carried = f", which with {carried} carried forward is not enough" if carried.amount else ""
        super().__init__(
            f"{spent} of the budget {text} are spent, held or committed;"
            f" its amount can't be lowered from {current} to {amount}{with_carried}.",
            budget_id=text,
            amount=amount.text(),
            current_amount=current.text(),
            spent=spent.text(),
            currency_code=amount.currency,
        )


class ZonedPeriod(NamedTuple):
    """The days in [start, end) of a time zone."""

    start: date
    end: date
    time_zone: str

    def __str__(self) -> str:
        return f"from {self.start} up to, but not including, {self.end} in {self.time_zone}"


class PeriodOutsideParent(FailedPrecondition):
    reason = "PERIOD_OUTSIDE_PARENT"

    def __init__(self, parent_id: UUID, *, period: ZonedPeriod, parent_period: ZonedPeriod) -> None:
        text = ids.BUDGET.format(parent_id)
        same_days = parent_period.start <= period.start and period.end <= parent_period.end
        advice = (
            " Its days fit, but they begin at another time than in the time zone of the parent;"
            " leave time_zone out to use that of the parent."
        )
        super().__init__(
            f"The period of the budget, {period}, must be within the period of the parent {text}, {parent_period}."
            f"{advice if same_days else ''}",
            parent_id=text,
            period_start_date=parent_period.start,
            period_end_date=parent_period.end,
            time_zone=period.time_zone,
            parent_time_zone=parent_period.time_zone,
        )


class BudgetTreeTooDeep(FailedPrecondition):
    reason = "BUDGET_TREE_TOO_DEEP"

    def __init__(self, limit: int) -> None:
        super().__init__(f"A chain may have at most {limit} budgets: a budget and those above it.", limit=limit)


class OwnerNotFound(NotFound):
    reason = "OWNER_NOT_FOUND"

    def __init__(self, owner: str) -> None:
        super().__init__(f"There is no {owner}.", owner=owner)

    @classmethod
    def of(cls, entity_id: UUID, department_id: UUID | None = None) -> "OwnerNotFound":
        """Return the error for an entity, or for a department of it."""
        department = f"department {ids.DEPARTMENT.format(department_id)} of " if department_id else ""
        return cls(f"{department}entity {ids.ENTITY.format(entity_id)}")


class OwnerInactive(FailedPrecondition):
    reason = "OWNER_INACTIVE"

    def __init__(self, owner: str) -> None:
        super().__init__(f"{owner} is not active and can have no new budgets.", owner=owner)


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


class _Insufficient(BudgetRefusal):
    advice = ""

    def __init__(self, budget_id: UUID, name: str, *, requested: Money, available: Money, limit: Money) -> None:
        self.id = budget_id
        text, short = ids.BUDGET.format(budget_id), requested - available
        super().__init__(
            f"The budget {name!r} ({text}) has {available} available; {requested} exceeds it by {short}.{self.advice}",
            budget_id=text,
            currency_code=requested.currency,
            requested=requested.text(),
            available=available.text(),
            short=short.text(),
            amount=limit.text(),
        )


class BudgetExceeded(_Insufficient):
    reason = "BUDGET_EXCEEDED"
    concealed_message = "A budget above has too little available."


class ApprovalRequired(_Insufficient):
    reason = "APPROVAL_REQUIRED"
    advice = " Spending more requires an approval."
    concealed_message = f"A budget above has too little available.{advice}"


class UsedTooLarge(BudgetRefusal):
    """The used amount of a budget would be more than can be stored, which its policy would allow otherwise."""

    reason = "AMOUNT_TOO_LARGE"
    concealed_message = "The used amount of a budget above would be larger than can be stored."

    def __init__(self, budget_id: UUID, name: str, *, requested: Money, used: Money, largest: Money) -> None:
        self.id = budget_id
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"The budget {name!r} ({text}) has {used} used; with {requested} more this would exceed {largest}, the"
            " largest amount that can be stored.",
            budget_id=text,
            currency_code=requested.currency,
            requested=requested.text(),
            used=used.text(),
            largest=largest.text(),
        )


class PeriodLocked(BudgetRefusal):
    reason = "PERIOD_LOCKED"
    concealed_message = "The time is in a locked period of a budget above."

    def __init__(self, budget_id: UUID, *, at: datetime, locked_until: datetime) -> None:
        self.id = budget_id
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"{at.isoformat()} is in a locked period of the budget {text}; it accepts charges dated"
            f" {locked_until.isoformat()} or later.",
            budget_id=text,
            locked_until_time=locked_until.isoformat(),
        )


class OutsidePeriod(BudgetRefusal):
    reason = "OUTSIDE_PERIOD"
    concealed_message = "The time is outside of the period of a budget above."

    def __init__(self, budget_id: UUID, *, at: datetime, starts: datetime, ends: datetime) -> None:
        self.id = budget_id
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"{at.isoformat()} is outside the period of the budget {text}:"
            f" from {starts.isoformat()} up to, but not including, {ends.isoformat()}.",
            budget_id=text,
            period_start_time=starts.isoformat(),
            period_end_time=ends.isoformat(),
        )
