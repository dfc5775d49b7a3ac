"""BudgetReportService: forecasts, summaries, unbudgeted spend and the ledger as a stream."""

from collections.abc import AsyncIterator
from typing import Final

from billing.budgets.v1 import budget_report_service_pb2 as pb
from billing.budgets.v1.forecast_pb2 import Forecast
from billing.budgets.v1.summary_pb2 import LedgerEntry

from contract.values import date_from_text
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.budgets import convert, service, store
from serving.pages import Pages

_ENTRIES_AT_ONCE: Final = 500


class BudgetReportServicer:
    """billing.budgets.v1.BudgetReportService."""

    service = pb.DESCRIPTOR.services_by_name["BudgetReportService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def ForecastBudget(self, request: pb.ForecastBudgetRequest, call: Call) -> Forecast:
        async with self._db.read(call) as tx:
            budget = await store.budgets.get(tx, ids.BUDGET.parse(request.id))
            return convert.reports.forecast_to_proto(await service.forecasts.forecast(tx, budget))

    async def ListUnbudgetedSpend(
        self, request: pb.ListUnbudgetedSpendRequest, call: Call
    ) -> pb.ListUnbudgetedSpendResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.allocated_costs.list_unbudgeted(
                tx,
                page,
                entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
                department_id=ids.DEPARTMENT.parse_optional(request.department_id, "department_id"),
                category=request.category,
                reason=request.reason,
                start=date_from_text(request.start_date),
                end=date_from_text(request.end_date),
            )
        listed = map(convert.allocated_costs.unbudgeted_to_proto, found.rows)
        return pb.ListUnbudgetedSpendResponse(unbudgeted_spend=listed, next_page_token=found.next_page_token)

    async def SummarizeBudgets(self, request: pb.SummarizeBudgetsRequest, call: Call) -> pb.SummarizeBudgetsResponse:
        async with self._db.read(call) as tx:
            found = await store.reports.summarize(tx, convert.reports.summary_query_from_proto(request))
        return pb.SummarizeBudgetsResponse(summaries=map(convert.reports.summary_to_proto, found))

    async def StreamEntries(self, request: pb.StreamEntriesRequest, call: Call) -> AsyncIterator[LedgerEntry]:
        ask, after = convert.reports.entry_query_from_proto(request)
        more = True
        while more:  # no transaction is open while the caller takes what was found
            async with self._db.read(call) as tx:
                found = await store.reports.entries_after(tx, ask, after, _ENTRIES_AT_ONCE)
            for entry, budget in found:
                after = entry.id
                yield convert.reports.ledger_entry_to_proto(entry, budget)
            more = len(found) == _ENTRIES_AT_ONCE
