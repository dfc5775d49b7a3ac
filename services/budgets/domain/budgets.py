"""Budgets: states, input types and the rules of their definition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from kit import resources
from kit.money import Money
from services.budgets.errors.budgets import BudgetStateForbids
from services.budgets.errors.fields import InvalidField

DEPTH_MAX: Final = 8
"""Most budgets in a chain: a budget and all budgets above it."""
LATE_POSTING_DAYS_DEFAULT: Final = 5
"""How long a budget accepts late postings after its period if nothing else is requested."""
THRESHOLDS_DEFAULT_BP: Final = (5000, 8000, 9000, 10000)
"""Alert thresholds of a budget that is created without any."""

PERIOD_END_TIMER: Final = "rollover"
"""Kind of the timers at the end of the period of active budgets: recurring ones roll over, others are CLOSING."""
LATE_POSTING_END_TIMER: Final = "late-posting-end"
"""Kind of the timers that close budgets in CLOSING when their days for late postings are over."""
FORECAST_TIMER: Final = "forecast"
"""Kind of the timers that check the forecast of each active budget, once a day."""


class BudgetState(StrEnum):
    """Budget.State."""

    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"


class BudgetAction(StrEnum):
    """Actions on a budget; the value is the past participle used in error messages."""

    ACTIVATE = "activated"
    CLOSE = "closed"
    REOPEN = "reopened"
    REOPEN_PERIOD = "reopened for late postings"
    CHANGE = "changed"
    CHARGE = "charged"
    RESERVE = "reserved from"
    RETURN = "credited"
    ADOPT = "given another budget below it"
    END_PERIOD = "ended"
    ROLL_OVER = "rolled over"


_S, _A = BudgetState, BudgetAction
BUDGET_TRANSITIONS: Final[Mapping[tuple[BudgetState, BudgetAction], BudgetState]] = {
    (_S.DRAFT, _A.ACTIVATE): _S.ACTIVE,
    (_S.DRAFT, _A.CLOSE): _S.CLOSED,
    (_S.DRAFT, _A.CHANGE): _S.DRAFT,
    (_S.DRAFT, _A.ADOPT): _S.DRAFT,
    (_S.ACTIVE, _A.CLOSE): _S.CLOSED,
    (_S.ACTIVE, _A.CHANGE): _S.ACTIVE,
    (_S.ACTIVE, _A.CHARGE): _S.ACTIVE,
    (_S.ACTIVE, _A.RESERVE): _S.ACTIVE,
    (_S.ACTIVE, _A.RETURN): _S.ACTIVE,
    (_S.ACTIVE, _A.ADOPT): _S.ACTIVE,
    (_S.ACTIVE, _A.END_PERIOD): _S.CLOSING,
    (_S.ACTIVE, _A.ROLL_OVER): _S.CLOSING,
    (_S.CLOSING, _A.ROLL_OVER): _S.CLOSING,
    (_S.CLOSING, _A.CHARGE): _S.CLOSING,
    (_S.CLOSING, _A.RETURN): _S.CLOSING,
    (_S.CLOSING, _A.CLOSE): _S.CLOSED,
    (_S.CLOSED, _A.RETURN): _S.CLOSED,
    (_S.CLOSED, _A.REOPEN): _S.ACTIVE,
    (_S.CLOSED, _A.REOPEN_PERIOD): _S.CLOSING,
}
"""The complete life cycle of a budget. Every pair that is not listed is forbidden.

A budget that was rolled over is never ACTIVE again: its next period is open, and what was carried forward to it stays
correct only while nothing but postings changes the budget.
"""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetDraft:
    """Input for a new budget."""

    entity_id: UUID
    department_id: UUID | None
    parent_id: UUID | None
    name: str
    category: str
    gl_code: str
    period_type: PeriodType
    period_start: date | None
    """None: the first day of the current period."""
    period_end: date | None
    """None: computed from the start; required for CUSTOM."""
    time_zone: str
    """Empty: that of the parent, or else that of the entity."""
    amount: Money
    overspend_policy: OverspendPolicy
    tolerance_bp: int
    alert_thresholds_bp: Sequence[int]
    recurring: bool | None
    """None: unless the period is over or CUSTOM."""
    rollover: Rollover
    rollover_cap: Money | None
    carry_overspend: bool
    late_posting_days: int
    covers_descendants: bool
    """True for a group budget, which is also charged with costs of the entities below its entity."""
    state: BudgetState


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUpdate:
    """Input for a change of a budget."""

    columns: Mapping[str, Any]
    """New values of the columns that change, apart from the amount and the rollover cap."""
    amount: Money | None = None
    """None: unchanged."""
    rollover_cap: Money | None = None
    """Meaningful if `changes_cap`."""
    changes_cap: bool = False
    reason: str = ""
    """Why the amount changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFilter:
    """Filters of a list of budgets; None and 0 match every budget."""

    entity_id: UUID | None = None
    department_id: UUID | None = None
    parent_id: UUID | None = None
    state: BudgetState | None = None
    period_date: date | None = None
    """A day of the period."""
    utilisation_min_bp: int = 0


def advance(budget_id: UUID, state: BudgetState, action: BudgetAction) -> BudgetState:
    """Return the state after `action`. Raises BudgetStateForbids."""
    return resources.advance(BUDGET_TRANSITIONS, budget_id, state, action, BudgetStateForbids)


def check_covers_descendants(department_id: UUID | None, *, covers_descendants: bool) -> None:
    """Raise InvalidField if a budget of a department is to be a group budget."""
    if covers_descendants and department_id:
        raise InvalidField("covers_descendants", "must be false for a budget of a department", "budget.group")


def check_rollover_cap(rollover: Rollover, *, has_cap: bool) -> None:
    """Raise InvalidField unless there is a cap exactly if the rollover is CAPPED."""
    if has_cap != (rollover is Rollover.CAPPED):
        raise InvalidField(
            "rollover_cap", "is required if rollover is CAPPED and must not be set otherwise", "rollover.cap"
        )
