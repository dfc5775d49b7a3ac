"""Budgets: states, actions and the table of transitions. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final
from uuid import UUID

from kit import resources
from kit.money import Money
from services.budgets.errors.budgets import BudgetStateForbids

DEPTH_MAX: Final = 8
"""Most levels of budgets above one another."""


class BudgetState(StrEnum):
    """Budget.State."""

    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE"
    CLOSED = "CLOSED"


class BudgetAction(StrEnum):
    """What is done to a budget; the value is how it reads in a sentence."""

    ACTIVATE = "activated"
    CLOSE = "closed"
    REOPEN = "reopened"
    CHANGE = "changed"
    CHARGE = "charged"
    RETURN = "given money back"
    ADOPT = "given another budget below it"
    ROLL_OVER = "rolled over"


class PeriodType(StrEnum):
    """Budget.PeriodType."""

    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"
    ANNUAL = "ANNUAL"
    CUSTOM = "CUSTOM"


class OverspendPolicy(StrEnum):
    """Budget.OverspendPolicy."""

    BLOCK = "BLOCK"
    WARN = "WARN"
    ALLOW_WITHIN_TOLERANCE = "ALLOW_WITHIN_TOLERANCE"
    REQUIRE_APPROVAL = "REQUIRE_APPROVAL"


class Rollover(StrEnum):
    """Budget.Rollover."""

    NONE = "NONE"
    FULL = "FULL"
    CAPPED = "CAPPED"


BUDGET_TRANSITIONS: Final[Mapping[tuple[BudgetState, BudgetAction], BudgetState]] = {
    (BudgetState.DRAFT, BudgetAction.ACTIVATE): BudgetState.ACTIVE,
    (BudgetState.DRAFT, BudgetAction.CLOSE): BudgetState.CLOSED,
    (BudgetState.DRAFT, BudgetAction.CHANGE): BudgetState.DRAFT,
    (BudgetState.DRAFT, BudgetAction.ADOPT): BudgetState.DRAFT,
    (BudgetState.ACTIVE, BudgetAction.CLOSE): BudgetState.CLOSED,
    (BudgetState.ACTIVE, BudgetAction.CHANGE): BudgetState.ACTIVE,
    (BudgetState.ACTIVE, BudgetAction.CHARGE): BudgetState.ACTIVE,
    (BudgetState.ACTIVE, BudgetAction.RETURN): BudgetState.ACTIVE,
    (BudgetState.ACTIVE, BudgetAction.ADOPT): BudgetState.ACTIVE,
    (BudgetState.ACTIVE, BudgetAction.ROLL_OVER): BudgetState.CLOSED,
    (BudgetState.CLOSED, BudgetAction.RETURN): BudgetState.CLOSED,
    (BudgetState.CLOSED, BudgetAction.REOPEN): BudgetState.ACTIVE,
}
"""The whole life of a budget; what is not here is not allowed."""


def advance(budget_id: UUID, state: BudgetState, action: BudgetAction) -> BudgetState:
    """The state after `action`; raises BudgetStateForbids naming the states in which it is allowed."""
    return resources.advance(BUDGET_TRANSITIONS, budget_id, state, action, BudgetStateForbids)


PERIOD_END_TIMER: Final = "rollover"
"""The timers of budgets whose next period is opened by itself."""


FORECAST_TIMER: Final = "forecast"
"""The timers of active budgets: each is looked at every day, whether it is expected to be overspent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetDraft:
    """A budget as it is asked for."""

    entity_id: UUID
    department_id: UUID | None
    parent_id: UUID | None
    name: str
    category: str
    gl_code: str
    period_type: PeriodType
    period_start: date
    period_end: date
    time_zone: str
    amount: Money
    overspend_policy: OverspendPolicy
    tolerance_bp: int
    alert_thresholds_bp: Sequence[int]
    recurring: bool
    rollover: Rollover
    rollover_cap: Money | None
    carry_overspend: bool
    state: BudgetState
