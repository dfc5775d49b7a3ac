"""Conversion of forecasts, summaries and the stream of ledger entries."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from billing.budgets.v1 import budget_report_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.forecast_pb2 import Forecast
from billing.budgets.v1.summary_pb2 import BudgetSummary, LedgerEntry
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.values import date_from_text, date_text, enum_or_none, money_to_proto, time_or_none
from kit import ids
from kit.money import Money
from services.budgets import convert, domain
from services.budgets.domain.balances import LARGEST
from services.budgets.domain.budgets import BudgetState
from services.budgets.domain.entries import EntryStreamQuery
from services.budgets.domain.forecast_warnings import ForecastResult
from services.budgets.domain.summaries import GroupBy, Summary, SummaryQuery
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.ledger import EntryRow


def forecast_to_proto(result: ForecastResult) -> Forecast:
    """Convert a forecast."""
    balance, forecast = result.balance, result.forecast
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
        runs_out_date=date_text(forecast.runs_out_on),
        method=Forecast.Method.Value(forecast.method),
        days_observed=forecast.days_observed,
        explanation=domain.forecast_warnings.explain(result),
    )


def summary_query_from_proto(request: pb.SummarizeBudgetsRequest) -> SummaryQuery:
    """Parse SummarizeBudgetsRequest."""
    return SummaryQuery(
        entity_ids=[ids.ENTITY.parse(entity_id, "entity_ids") for entity_id in request.entity_ids],
        period_date=date_from_text(request.period_date),
        start_date=date_from_text(request.start_date),
        end_date=date_from_text(request.end_date),
        state=enum_or_none(BudgetState, Budget.State, request.state),
        group_by=enum_or_none(GroupBy, BudgetSummary.GroupBy, request.group_by) or GroupBy.CURRENCY,
        each_group_alone=request.each_group_alone,
    )


def summary_to_proto(summary: Summary) -> BudgetSummary:
    """Convert the sums of one group in one currency."""

    def money(amount: Decimal) -> MoneyMessage:
        return money_to_proto(Money(amount, summary.currency))

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
        available=money(summary.available),
        fx_effect=money(summary.fx_effect),
        fx_effect_unknown_count=summary.fx_unknown,
    )


def entry_query_from_proto(request: pb.StreamEntriesRequest, now: datetime) -> tuple[EntryStreamQuery, UUID | None]:
    """Parse StreamEntriesRequest. Returns the query and the entry after which the stream starts."""
    query = EntryStreamQuery(
        start=time_or_none(request, "start_time"),
        end=domain.entries.stream_end(time_or_none(request, "end_time"), now),
        entity_ids=[ids.ENTITY.parse(entity_id, "entity_ids") for entity_id in request.entity_ids],
    )
    return query, ids.ENTRY.parse_optional(request.last_event_id, "last_event_id")


def ledger_entry_to_proto(entry: EntryRow, budget: BudgetRow) -> LedgerEntry:
    """Convert an entry together with the owner and the category of its budget."""
    message = convert.entries.to_proto(entry, budget.id)
    return LedgerEntry(
        event_id=message.id,
        entry=message,
        entity_id=ids.ENTITY.format(budget.entity_id),
        department_id=ids.DEPARTMENT.format_optional(budget.department_id),
        category=budget.category,
        gl_code=budget.gl_code,
    )
