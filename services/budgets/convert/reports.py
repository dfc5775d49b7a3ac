"""Forecasts, summaries and entries for reports: requests to what the store is asked, its answers to messages."""

from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final
from uuid import UUID

from billing.budgets.v1 import budget_report_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.forecast_pb2 import Forecast
from billing.budgets.v1.summary_pb2 import BudgetSummary, LedgerEntry
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.values import date_from_text, money_to_proto, time_from_proto
from kit import clock, ids
from kit.money import Money, exponent
from services.budgets import convert, domain
from services.budgets.domain.balances import LARGEST
from services.budgets.domain.budgets import BudgetState
from services.budgets.domain.entries import EntryStreamQuery
from services.budgets.domain.forecast_warnings import ForecastResult
from services.budgets.domain.summaries import GroupBy, Summary, SummaryQuery
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.ledger import EntryRow

_SETTLED: Final = timedelta(minutes=1)
"""Twice the time that a call may take: what began before has ended."""


def forecast_to_proto(foreseen: ForecastResult) -> Forecast:
    """What will become of a budget."""
    balance, forecast = foreseen.balance, foreseen.forecast
    expected = domain.forecast_warnings.expected(forecast)
    return Forecast(
        budget_id=ids.BUDGET.format(balance.terms.id),
        expected=money_to_proto(balance.money(expected)),
        low=money_to_proto(balance.money(min(forecast.low, LARGEST))),
        high=money_to_proto(balance.money(min(forecast.high, LARGEST))),
        amount=money_to_proto(balance.money(balance.total)),
        spent=money_to_proto(balance.money(balance.spent)),
        committed=money_to_proto(balance.money(balance.committed)),
        held=money_to_proto(balance.money(balance.held)),
        utilisation_bp=balance.share_bp(expected),
        runs_out_date=forecast.runs_out_on.isoformat() if forecast.runs_out_on else "",
        method=Forecast.Method.Value(forecast.method),
        days_observed=forecast.days_observed,
        explanation=domain.forecast_warnings.explain(balance, foreseen.course, forecast),
    )


def summary_query_from_proto(request: pb.SummarizeBudgetsRequest) -> SummaryQuery:
    """What SummarizeBudgets asks for."""
    return SummaryQuery(
        entity_ids=[ids.ENTITY.parse(entity_id, "entity_ids") for entity_id in request.entity_ids],
        period_date=date_from_text(request.period_date),
        start_date=date_from_text(request.start_date),
        end_date=date_from_text(request.end_date),
        state=BudgetState(Budget.State.Name(request.state)) if request.state else None,
        group_by=GroupBy(BudgetSummary.GroupBy.Name(request.group_by or BudgetSummary.CURRENCY)),
        each_group_alone=request.each_group_alone,
    )


def summary_to_proto(summary: Summary) -> BudgetSummary:
    """Budgets of one group and one currency."""

    def money(amount: Decimal) -> MoneyMessage:
        return money_to_proto(Money(amount, summary.currency))

    unit = Decimal(1).scaleb(-(exponent(summary.currency) or 0))
    used = summary.spent + summary.held + summary.committed
    return BudgetSummary(
        entity_id=ids.ENTITY.format_optional(summary.entity_id),
        department_id=ids.DEPARTMENT.format_optional(summary.department_id),
        category=summary.category or "",
        budget_count=summary.budgets,
        overspent_count=summary.overspent,
        compliance_bp=summary.compliance_bp,
        amount=money(summary.amount),
        carried=money(summary.carried),
        spent=money(summary.spent),
        held=money(summary.held),
        committed=money(summary.committed),
        captured=money(summary.captured),
        available=money(summary.amount + summary.carried - used),
        fx_effect=money(summary.fx_effect.quantize(unit, ROUND_HALF_EVEN)),
    )


def entry_query_from_proto(request: pb.StreamEntriesRequest) -> tuple[EntryStreamQuery, UUID | None]:
    """What StreamEntries asks for, and the entry after which to begin."""
    ask = EntryStreamQuery(
        start=time_from_proto(request.start_time) if request.HasField("start_time") else None,
        end=time_from_proto(request.end_time) if request.HasField("end_time") else clock.now() - _SETTLED,
        entity_ids=[ids.ENTITY.parse(entity_id, "entity_ids") for entity_id in request.entity_ids],
    )
    return ask, ids.ENTRY.parse_optional(request.last_event_id, "last_event_id")


def ledger_entry_to_proto(entry: EntryRow, budget: BudgetRow) -> LedgerEntry:
    """An entry of the ledger, and whose budget it moved."""
    told = convert.entries.to_proto(entry, budget.id)
    return LedgerEntry(
        event_id=told.id,
        entry=told,
        entity_id=ids.ENTITY.format(budget.entity_id),
        department_id=ids.DEPARTMENT.format_optional(budget.department_id),
        category=budget.category,
        gl_code=budget.gl_code,
    )
