"""BudgetReportService: forecasts, summaries, unbudgeted spend and the ledger as a stream."""

from collections.abc import AsyncIterator
from typing import Final

from billing.budgets.v1 import budget_report_service_pb2 as pb
from billing.budgets.v1.forecast_pb2 import Forecast
from billing.budgets.v1.summary_pb2 import LedgerEntry

from kit import clock, ids
from kit.db import Database
from kit.origin import Call
from services.budgets import convert, domain, service, store
from serving.pages import Pages

_ENTRIES_PER_QUERY: Final = 500


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
        page, filters = self._pages.read(request, call), convert.unbudgeted.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.unbudgeted.list_page(tx, page, filters)
            hidden = await store.budgets.find_hidden(tx, convert.unbudgeted.named_budgets(listed.rows))
        spend = (convert.unbudgeted.to_proto(row, hidden) for row in listed.rows)
        return pb.ListUnbudgetedSpendResponse(unbudgeted_spend=spend, next_page_token=listed.next_page_token)

    async def SummarizeBudgets(self, request: pb.SummarizeBudgetsRequest, call: Call) -> pb.SummarizeBudgetsResponse:
        async with self._db.read(call) as tx:
            summaries = await store.reports.summarize(tx, convert.reports.summary_query_from_proto(request))
        rounded = domain.summaries.round_effects(summaries)
        return pb.SummarizeBudgetsResponse(summaries=map(convert.reports.summary_to_proto, rounded))

    async def StreamEntries(self, request: pb.StreamEntriesRequest, call: Call) -> AsyncIterator[LedgerEntry]:
        query, after = convert.reports.entry_query_from_proto(request, clock.now())
        more = True
        while more:  # no transaction is open while the caller reads the entries
            async with self._db.read(call) as tx:
                rows = await store.reports.list_entries_after(tx, query, after, _ENTRIES_PER_QUERY)
            for entry, budget in rows:
                after = entry.id
                yield convert.reports.ledger_entry_to_proto(entry, budget)
            more = len(rows) == _ENTRIES_PER_QUERY
