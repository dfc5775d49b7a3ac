"""Helpers for rollovers, periods and timers."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.rollover_pb2 import Rollover
from google.protobuf.timestamp_pb2 import Timestamp

from kit.ids import BUDGET
from tests.budgets.budgets_api import BudgetsApi

YEAR = datetime.now(UTC).year


async def roll(api: BudgetsApi, budget: Budget, key: str = "", **given: Any) -> Rollover:
    """Roll the budget over, by default before the end of its period."""
    request = pb.RolloverBudgetRequest(**{"id": budget.id, "early": True, "request_id": key or uuid4().hex, **given})
    return await api.who.call(api.stubs.budgets.RolloverBudget, request)


async def below(api: BudgetsApi, parent: Budget) -> list[Budget]:
    """Return the children of the budget, oldest first."""
    return list((await api.who.call(api.stubs.budgets.ListBudgets, pb.ListBudgetsRequest(parent_id=parent.id))).budgets)


async def series(api: BudgetsApi, name: str) -> list[Budget]:
    """Return all periods of the budgets of this name, in order."""
    page = await api.who.call(api.stubs.budgets.ListBudgets, pb.ListBudgetsRequest(page_size=1000))
    return sorted((b for b in page.budgets if b.name == name), key=lambda budget: budget.period_number)


async def move_back_a_year(admin: Any, *budgets: Budget) -> None:
    """Move budgets back by a year in the database; no timer fires."""
    columns = "period_start", "period_end", "anchor_date", "period_start_time", "period_end_time"
    earlier = ", ".join(f"{column} = {column} - interval '1 year'" for column in columns)
    await admin.execute(
        f"update budgets.budgets set {earlier} where id = any($1)",
        [BUDGET.parse(budget.id) for budget in budgets],
    )


def noon(day: str) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromisoformat(f"{day}T12:00:00+00:00"))
    return stamp


async def timers(admin: Any, budget: Budget, kind: str = "rollover") -> list[tuple[str, datetime]]:
    rows = await admin.fetch(
        "select kind, due_time from budgets.timers where resource_id = $1 and kind = $2", BUDGET.parse(budget.id), kind
    )
    return [(row["kind"], row["due_time"]) for row in rows]


def this_month() -> str:
    return datetime.now(UTC).date().replace(day=1).isoformat()
