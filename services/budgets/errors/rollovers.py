"""Errors of rollovers."""

from datetime import datetime
from uuid import UUID

from kit import ids
from kit.errors import FailedPrecondition
from services.budgets.errors.budgets import BudgetRefusal, ZonedPeriod


class PeriodNotOver(FailedPrecondition):
    reason = "PERIOD_NOT_OVER"

    def __init__(self, budget_id: UUID, *, ends: datetime) -> None:
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"The period of the budget {text} ends at {ends.isoformat()}; set `early` to roll it over before.",
            budget_id=text,
            period_end_time=ends.isoformat(),
        )


class PeriodOpened(FailedPrecondition):
    reason = "PERIOD_OPENED"

    def __init__(self, budget_id: UUID, opened_id: UUID) -> None:
        text, opened = ids.BUDGET.format(budget_id), ids.BUDGET.format(opened_id)
        super().__init__(
            f"The next period of the budget {text} is open already: {opened}.",
            budget_id=text,
            opened_budget_id=opened,
        )


class ParentNotRolledOver(BudgetRefusal):
    reason = "PARENT_NOT_ROLLED_OVER"
    concealed_message = (
        "The next period of the budget is not within a period of its parent. A user who may see the parent can roll"
        " both over."
    )

    def __init__(self, budget_id: UUID, parent_id: UUID, *, period: ZonedPeriod) -> None:
        self.id = parent_id
        text, parent = ids.BUDGET.format(budget_id), ids.BUDGET.format(parent_id)
        super().__init__(
            f"The next period of the budget {text}, {period}, is not within a"
            f" period of its parent. Roll the parent {parent} over; this budget is then rolled over with it.",
            budget_id=text,
            parent_id=parent,
            period_start_date=period.start,
            period_end_date=period.end,
            time_zone=period.time_zone,
        )
