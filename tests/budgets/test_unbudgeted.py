"""Unbudgeted spend: listed by filters and pages, within the scope of the caller."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.budgets.v1 import budget_report_service_pb2 as pb
from billing.entities.v1.events_pb2 import CostAllocated
from grpc import StatusCode
from nats.aio.client import Client

from kit import ids
from services.budgets import convert, store
from services.budgets.ledger import LedgerConnection
from services.budgets.service.allocated_costs import ALLOCATED
from tests.budgets.allocated_costs import CostEvents, allocation, today, unbudgeted
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.harness.callers import Caller, refusal
from tests.harness.services import Budgets, Served


class TestList:
    @pytest.fixture
    async def spends(self, api: BudgetsApi, company: str, cost_events: CostEvents) -> list[CostAllocated]:
        """Three costs that no budget accepted: the first exceeded its budget, the last has a department."""
        await api.open("1", category="cloud")
        department = await api.department(company)
        costs = [
            allocation(company, category="cloud", allocation_date=today()),
            allocation(company, category="travel", allocation_date="2031-03-01"),
            allocation(company, department_id=department, category="rent", allocation_date="2031-04-01"),
        ]
        for cost in costs:
            await cost_events(cost)
        return costs

    async def test_filters(self, api: BudgetsApi, company: str, spends: list[CostAllocated]) -> None:
        async def positions(**given: Any) -> list[int]:
            listed = [spend.allocation_id for spend in await unbudgeted(api, **given)]
            return [[cost.allocation_id for cost in spends].index(id) for id in listed]

        assert await positions() == [2, 1, 0]
        assert await positions(entity_id=company) == [2, 1, 0]
        assert await positions(entity_id=ids.ENTITY.format(uuid4())) == []
        assert await positions(department_id=spends[2].department_id) == [2]
        assert await positions(category="travel") == [1]
        assert await positions(reason="NO_BUDGET") == [2, 1]
        assert await positions(reason="BUDGET_EXCEEDED") == [0]
        assert await positions(start_date="2031-03-01") == [2, 1]
        assert await positions(start_date="2031-03-01", end_date="2031-04-01") == [1]
        assert await positions(end_date="2031-03-01") == [0]

    async def test_pages(self, api: BudgetsApi, spends: list[CostAllocated]) -> None:
        request = pb.ListUnbudgetedSpendRequest(page_size=2)
        first = await api.who.call(api.stubs.reports.ListUnbudgetedSpend, request)
        assert [spend.allocation_id for spend in first.unbudgeted_spend] == [
            spends[2].allocation_id, spends[1].allocation_id,
        ]  # fmt: skip
        request.page_token = first.next_page_token
        second = await api.who.call(api.stubs.reports.ListUnbudgetedSpend, request)
        assert [spend.allocation_id for spend in second.unbudgeted_spend] == [spends[0].allocation_id]
        assert second.next_page_token == ""
        request.category = "cloud"
        error = await refusal(api.who.call(api.stubs.reports.ListUnbudgetedSpend, request))
        assert error.reason == "PAGE_TOKEN_INVALID"

    async def test_scope_limits_the_rows(
        self, api: BudgetsApi, company: str, spends: list[CostAllocated], api_for: Callable[[Caller], BudgetsApi],
        caller: Callable[..., Caller],
    ) -> None:  # fmt: skip
        of_department = api_for(caller("department_manager", department_scope=[spends[2].department_id]))
        assert [spend.category for spend in await unbudgeted(of_department)] == ["rent"]
        assert await unbudgeted(of_department, category="cloud") == []
        of_company = api_for(caller("department_manager", entity_scope=[company]))
        assert len(await unbudgeted(of_company)) == 3
        of_another = api_for(caller("department_manager", entity_scope=[await api.company("OTHER")]))
        assert await unbudgeted(of_another) == []

    async def test_another_tenant_sees_nothing(
        self, spends: list[CostAllocated], api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        assert await unbudgeted(api_for(caller("finance", tenant=uuid4()))) == []

    async def test_permission_to_read_budgets_is_required(
        self, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        error = await refusal(unbudgeted(api_for(caller([]))))
        assert error.code == StatusCode.PERMISSION_DENIED

    async def test_budgets_of_one_tenant_never_accept_costs_of_another(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, nats: Client,
        api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller], admin: "asyncpg.Pool[asyncpg.Record]",
    ) -> None:  # fmt: skip
        """Even if both arrive at the same moment with the same ids."""
        budget, stranger = await api.open(), uuid4()
        theirs = api_for(caller("finance", tenant=stranger))
        costs = [allocation(company) for _ in range(20)]
        their_events = CostEvents(nats, stranger, theirs, admin)
        await asyncio.gather(cost_events(*costs), their_events(*costs))
        assert (await api.get(budget)).spent == eur("200.00")
        assert len(await their_events.unbudgeted(20)) == 20
        assert await unbudgeted(api) == []

    async def test_in_one_transaction_each_tenant_finds_only_its_own_rows(
        self, api: BudgetsApi, company: str, cost_events: CostEvents, budgets_served: Served[Budgets], tenant: UUID
    ) -> None:
        budget, stranger, done, new = await api.open(), uuid4(), allocation(company), allocation(company)
        await cost_events(done)
        queries = [
            ((of, ALLOCATED, f"allocation:{event.allocation_id}"), convert.allocated_costs.cost_from_proto(event))
            for event in (done, new)
            for of in (stranger, tenant)
        ]
        connection = LedgerConnection(budgets_served.settings)
        async with connection.begin({tenant, stranger}) as transaction:
            matches = await store.allocated_costs.match(transaction, queries)
        await connection.close()
        assert [match.stored is not None for match in matches] == [False, True, False, False]
        candidates = [[ids.BUDGET.format(candidate.id) for candidate in match.candidates] for match in matches]
        assert candidates == [[], [], [], [budget.id]]
