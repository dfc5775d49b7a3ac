"""Summaries of budgets and the stream of ledger entries, both internal and for reports."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing.budgets.v1 import budget_report_service_pb2 as report_pb
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.summary_pb2 import BudgetSummary, LedgerEntry
from billing.type.v1.money_pb2 import Money
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import event

from kit import ids
from kit.db import Database
from kit.origin import Origin
from kit.settings import Settings
from kit.telemetry import Trace
from services.budgets import rpc, store
from services.budgets.domain.entries import EntryStreamQuery
from services.budgets.domain.summaries import GroupBy, SummaryQuery
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.budgets.rolling import YEAR
from tests.harness.callers import Caller, refusal
from tests.harness.databases import Copy
from tests.harness.tokens import Keys


@pytest.fixture
def service_of(keys: Keys) -> Callable[[UUID], Caller]:
    """Return another service that calls on behalf of a tenant."""
    return lambda tenant_id: Caller(tenant_id, "service:reporting", keys.service_token("reporting", tenant_id))


@pytest.fixture
def service(service_of: Callable[[UUID], Caller], tenant: UUID) -> Caller:
    return service_of(tenant)


async def summarize(api: BudgetsApi, who: Caller, **given: Any) -> Sequence[BudgetSummary]:
    return (await who.call(api.stubs.reports.SummarizeBudgets, report_pb.SummarizeBudgetsRequest(**given))).summaries


def usd(amount: str) -> Money:
    return Money(currency_code="USD", amount=amount)


class TestSummaries:
    async def test_all_numbers_are_summed(self, api: BudgetsApi, service: Caller) -> None:
        first = await api.open("1000", overspend_policy=Budget.WARN)
        second = await api.open("500")
        third = await api.open("200")
        await api.charge(first, "1100")
        await api.charge(second, "100")
        await api.hold(second, "30")
        await api.commit(await api.hold(second, "20"))
        await api.capture(await api.hold(third, "200"), "50")
        (summary,) = await summarize(api, service)
        assert summary == BudgetSummary(
            budget_count=3, overspent_count=1, compliance_bp=6666, amount=eur("1700.00"), carried=eur("0.00"),
            spent=eur("1250.00"), held=eur("180.00"), committed=eur("20.00"), captured=eur("50.00"),
            available=eur("250.00"), fx_effect=eur("0.00"),
        )  # fmt: skip

    async def test_budgets_below_a_matching_one_are_not_counted_twice(self, api: BudgetsApi, service: Caller) -> None:
        entity = await api.company()
        department = await api.department(entity)
        top = await api.open("1000", entity_id=entity)
        middle = await api.open("600", entity_id=entity, parent_id=top.id, draft=True)
        bottom = await api.open("500", entity_id=entity, parent_id=middle.id, department_id=department)
        await api.who.call(api.stubs.budgets.ActivateBudget, pb.ActivateBudgetRequest(id=middle.id))
        await api.charge(bottom, "100")
        (summary,) = await summarize(api, service)
        assert (summary.budget_count, summary.amount, summary.spent) == (1, eur("1000.00"), eur("100.00"))
        await api.close(top)
        (summary,) = await summarize(api, service, state=Budget.ACTIVE)
        assert (summary.budget_count, summary.amount, summary.spent) == (1, eur("600.00"), eur("100.00"))
        await api.close(middle)
        (summary,) = await summarize(api, service, state=Budget.CLOSED)
        assert (summary.budget_count, summary.amount) == (1, eur("1000.00")), (
            "the closed child is part of its closed parent"
        )
        (summary,) = await summarize(api, service, state=Budget.ACTIVE)
        assert (summary.budget_count, summary.amount) == (1, eur("500.00"))

    async def test_grandchild_is_not_counted_twice_if_its_parent_does_not_match(
        self, api: BudgetsApi, service: Caller
    ) -> None:
        top = await api.open("1000")
        middle = await api.open("600", parent_id=top.id)
        await api.open("500", parent_id=middle.id)
        await api.close(middle)
        (summary,) = await summarize(api, service, state=Budget.ACTIVE)
        assert (summary.budget_count, summary.amount) == (1, eur("1000.00"))

    async def test_each_group_alone_is_complete(self, api: BudgetsApi, service: Caller) -> None:
        entity = await api.company()
        department = await api.department(entity)
        top = await api.open("1000", entity_id=entity)
        below = await api.open("400", entity_id=entity, parent_id=top.id, department_id=department)
        await api.open("300", entity_id=entity, parent_id=below.id, department_id=department)
        (whole,) = await summarize(api, service, group_by=BudgetSummary.DEPARTMENT)
        assert (whole.entity_id, whole.department_id, whole.amount) == (entity, "", eur("1000.00"))
        summaries = await summarize(api, service, group_by=BudgetSummary.DEPARTMENT, each_group_alone=True)
        assert {(one.department_id, one.amount.amount) for one in summaries} == {
            ("", "1000.00"),
            (department, "400.00"),
        }
        assert {one.entity_id for one in summaries} == {entity}

    async def test_each_group_has_one_currency(self, api: BudgetsApi, service: Caller) -> None:
        await api.open("1000", category="cloud")
        await api.open("500", category="cloud")
        await api.open(amount=usd("70"), category="cloud")
        await api.open("20", category="travel")
        for group_by in (BudgetSummary.GROUP_BY_UNSPECIFIED, BudgetSummary.CURRENCY, BudgetSummary.ENTITY):
            summaries = await summarize(api, service, group_by=group_by)
            assert [one.amount for one in summaries] == [eur("1520.00"), usd("70.00")]
            assert {one.category for one in summaries} == {""}
        summaries = await summarize(api, service, group_by=BudgetSummary.CATEGORY)
        assert [(one.category, one.amount, one.entity_id) for one in summaries] == [
            ("cloud", eur("1500.00"), ""), ("cloud", usd("70.00"), ""), ("travel", eur("20.00"), ""),
        ]  # fmt: skip

    async def test_filters(self, api: BudgetsApi, service: Caller) -> None:
        acme, other = await api.company("ACME"), await api.company("OTHER")
        await api.open("1", entity_id=acme, period_type=Budget.QUARTERLY, period_start_date="2030-01-01")
        await api.open("10", entity_id=acme, period_type=Budget.QUARTERLY, period_start_date="2030-04-01")
        await api.open("100", entity_id=other, period_type=Budget.QUARTERLY, period_start_date="2030-07-01")
        await api.open("1000", entity_id=other, period_start_date="2030-01-01", draft=True)

        async def amount(**given: Any) -> int:
            return sum(int(float(one.amount.amount)) for one in await summarize(api, service, **given))

        assert await amount() == 111
        assert await amount(state=Budget.DRAFT) == 1000
        assert await amount(state=Budget.CLOSED) == 0
        assert await amount(entity_ids=[acme]) == 11
        assert await amount(entity_ids=[acme, other]) == 111
        assert await amount(period_date="2030-03-31") == 1
        assert await amount(period_date="2030-04-01") == 10
        assert await amount(start_date="2030-04-01") == 110
        assert await amount(start_date="2030-03-31") == 111
        assert await amount(end_date="2030-04-01") == 1
        assert await amount(start_date="2030-06-30", end_date="2030-07-02") == 110

    async def test_fx_effect(self, api: BudgetsApi, service: Caller) -> None:
        await api.set_rates(f"{YEAR}-01-01 USD/EUR 0.9", "USD/EUR 1.0")
        top = await api.open("1000")
        below = await api.open("800", parent_id=top.id)
        charge = await api.charge(below, usd("100"))
        await api.charge(below, "50")
        await api.capture(await api.hold(top, usd("40")), usd("40"))
        (summary,) = await summarize(api, service)
        assert (summary.spent, summary.fx_effect) == (eur("190.00"), eur("14.00"))
        await api.refund(charge, usd("25"))
        (summary,) = await summarize(api, service)
        assert (summary.spent, summary.fx_effect) == (eur("165.00"), eur("11.50"))
        await api.refund(charge)
        (summary,) = await summarize(api, service)
        assert (summary.spent, summary.fx_effect) == (eur("90.00"), eur("4.00"))
        await api.hold(below, usd("10"))
        assert (await summarize(api, service))[0].fx_effect == eur("4.00"), "holds are not spent"

    async def test_unknown_fx_effects_are_counted_and_not_summed(self, api: BudgetsApi, service: Caller) -> None:
        await api.set_rates(f"{YEAR}-01-01 USD/EUR 0.9", "USD/EUR 1.0", "CHF/EUR 1.1")
        top = await api.open("1000")
        below = await api.open("800", parent_id=top.id)
        await api.charge(below, usd("100"))
        await api.charge(below, Money(currency_code="CHF", amount="10.00"))
        await api.hold(below, Money(currency_code="CHF", amount="10.00"))
        await api.charge(below, "50")
        (summary,) = await summarize(api, service)
        assert (summary.spent, summary.fx_effect, summary.fx_effect_unknown_count) == (eur("161.00"), eur("10.00"), 1)

    async def test_only_services_can_call_it_for_their_tenant(
        self, api: BudgetsApi, service: Caller, service_of: Callable[[UUID], Caller]
    ) -> None:
        await api.open()
        assert (await refusal(summarize(api, api.who))).reason == "PERMISSION_MISSING"
        assert len(await summarize(api, service)) == 1
        assert list(await summarize(api, service_of(uuid4()))) == []


async def stream(api: BudgetsApi, who: Caller, **given: Any) -> list[LedgerEntry]:
    """Return all entries of the stream, by default up to now."""
    if "end_time" not in given:
        given["end_time"] = stamp(timedelta(hours=1))
    request = report_pb.StreamEntriesRequest(**given)
    return [entry async for entry in api.stubs.reports.StreamEntries(request, metadata=who.metadata, timeout=20)]


def stamp(from_now: timedelta) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(datetime.now(UTC) + from_now)
    return timestamp


class TestEntries:
    @pytest.fixture
    def small_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rpc.reports, "_ENTRIES_PER_QUERY", 3)

    @pytest.mark.parametrize("count", [0, 2, 3, 4, 6, 7])
    @pytest.mark.usefixtures("small_pages")
    async def test_each_entry_is_streamed_once_in_order(self, api: BudgetsApi, service: Caller, count: int) -> None:
        entity = await api.company()
        department = await api.department(entity)
        top = await api.open(entity_id=entity)
        below = await api.open("500", entity_id=entity, parent_id=top.id, department_id=department, category="cloud")
        charges = [await api.charge(below, str(number + 1)) for number in range(count)]
        entries = await stream(api, service)
        assert [one.event_id for one in entries] == [charge.id for charge in charges]
        for one, entry in zip(entries, reversed(await api.entries(below)), strict=True):
            assert one.entry == entry
            assert (one.entity_id, one.department_id, one.category) == (entity, department, "cloud")

    @pytest.mark.usefixtures("small_pages")
    async def test_broken_stream_continues_after_the_last_entry(self, api: BudgetsApi, service: Caller) -> None:
        budget = await api.open()
        for _ in range(8):
            await api.charge(budget, "1")
        request = report_pb.StreamEntriesRequest(end_time=stamp(timedelta(hours=1)))
        call = api.stubs.reports.StreamEntries(request, metadata=service.metadata, timeout=20)
        entries = aiter(call)
        received = [(await anext(entries)).event_id for _ in range(4)]
        call.cancel()
        rest = [one.event_id for one in await stream(api, service, last_event_id=received[-1])]
        whole = [one.event_id for one in await stream(api, service)]
        assert received + rest == whole
        assert len(whole) == 8

    async def test_filters_of_the_stream(self, api: BudgetsApi, service: Caller) -> None:
        acme, other = await api.company("ACME"), await api.company("OTHER")
        budgets = [await api.open(entity_id=entity) for entity in (acme, other)]
        before = await api.charge(budgets[0], "1")
        after = await api.charge(budgets[1], "2")
        entries = {entity: await stream(api, service, entity_ids=[entity]) for entity in (acme, other)}
        assert [one.event_id for one in entries[acme]] == [before.id]
        assert [one.event_id for one in entries[other]] == [after.id]
        moment = entries[other][0].entry.create_time
        assert [one.event_id for one in await stream(api, service, end_time=moment)] == [before.id]
        assert [one.event_id for one in await stream(api, service, start_time=moment)] == [after.id]

    async def test_recent_entries_are_not_streamed_by_default(self, api: BudgetsApi, service: Caller) -> None:
        await api.charge(await api.open(), "1")
        request = report_pb.StreamEntriesRequest()
        entries = [one async for one in api.stubs.reports.StreamEntries(request, metadata=service.metadata, timeout=20)]
        assert entries == []

    async def test_entries_have_the_balance_of_their_own_budget(self, api: BudgetsApi, service: Caller) -> None:
        top = await api.open("1000", name="Top")
        other = await api.open("1000", name="Other")
        request = pb.TransferBudgetRequest(id=top.id, to_budget_id=other.id, amount=eur("5"), request_id=uuid4().hex)
        await api.who.call(api.stubs.budgets.TransferBudget, request)
        entries = await stream(api, service)
        assert {(one.entry.budget_id, one.entry.entry_type) for one in entries} == {
            (top.id, Entry.TRANSFER_OUT), (other.id, Entry.TRANSFER_IN),
        }  # fmt: skip

    async def test_only_services_can_call_it_for_their_tenant(
        self, api: BudgetsApi, service: Caller, service_of: Callable[[UUID], Caller]
    ) -> None:
        await api.charge(await api.open(), "1")
        assert (await refusal(stream(api, api.who))).reason == "PERMISSION_MISSING"
        assert len(await stream(api, service)) == 1
        assert await stream(api, service_of(uuid4())) == []


class Ledger:
    """A database with many entries of many budgets."""

    def __init__(self, database: Database, connection: asyncpg.Connection) -> None:
        self.database, self.connection = database, connection
        self.tenant_id, self.entity_id = uuid4(), ids.new()
        self.budget_ids = [ids.new() for _ in range(100)]

    async def fill(self, admin: asyncpg.Connection) -> None:
        """Insert 50,000 charges of 100 budgets, every fifth in another currency."""
        await admin.execute("set search_path = budgets")
        await admin.execute("insert into budget_owners values ($1, $2, false, now())", self.tenant_id, self.entity_id)
        await admin.execute(
            "insert into budgets (tenant_id, id, entity_id, ancestor_ids, name, category, gl_code, period_type,"
            " period_start, period_end, period_start_time, period_end_time, anchor_date, time_zone, currency_code,"
            " amount, spent, overspend_policy, tolerance_bp, alert_thresholds_bp, ledger_version, state, version,"
            " create_time, update_time)"
            " select $1, id, $2, '{}', 'Cloud', 'cloud', '', 'ANNUAL', '2026-01-01', '2027-01-01', '2026-01-01',"
            " '2027-01-01', '2026-01-01', 'UTC', 'EUR', 100000, 500, 'BLOCK', 0, '{8000}', 500, 'ACTIVE', 1, now(),"
            " now() from unnest($3::uuid[]) id",
            self.tenant_id, self.entity_id, self.budget_ids,
        )  # fmt: skip
        await admin.execute(
            "insert into budget_entries (tenant_id, id, entry_type, budget_id, chain_ids, chain_versions,"
            " chain_amounts, chain_spent, chain_held, chain_committed, amount, currency_code, verdict, request_id,"
            " description, reference, actor, charge_time, create_time, moved_spent, original_amount,"
            " original_currency, plan_amount)"
            " select $1, ($3::text || lpad(to_hex(n), 8, '0'))::uuid, 'CHARGE', id, array[id], array[n], '{100000}',"
            " '{1}', '{0}', '{0}', 1, 'EUR', 'ACCEPTED', n::text, '', '', 'alice',"
            " '2026-01-01'::timestamptz + n * interval '10 minutes', now(), 1,"
            " case when n % 5 = 0 then 2 end, case when n % 5 = 0 then 'USD' end, case when n % 5 = 0 then 0.9 end"
            " from generate_series(1, 50000) n cross join lateral (select ($2::uuid[])[1 + n % 100] as id) b",
            self.tenant_id, self.budget_ids, ids.new().hex[:24],
        )  # fmt: skip
        await admin.execute("vacuum analyze budget_entries")

    async def plan(self, query: Callable[[Any], Awaitable[Any]]) -> tuple[list[dict[str, Any]], Any]:
        """Return the parts of the plan that read entries, under row-level security, and the result of the query."""
        statements: list[tuple[str, Any]] = []
        engine = self.database._engine.sync_engine

        def record(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
            statements.append((statement, parameters))

        trace, deadline = Trace.from_header(None), time.monotonic() + 30
        origin = Origin(tenant_id=self.tenant_id, actor="alice", trace=trace, deadline=deadline)
        event.listen(engine, "before_cursor_execute", record)
        try:
            async with self.database.read(origin) as tx:
                result = await query(tx)
        finally:
            event.remove(engine, "before_cursor_execute", record)
        statement, parameters = statements[-1]
        await self.connection.execute("select set_config('app.tenant_id', $1, false)", str(self.tenant_id))
        plan = await self.connection.fetchval(f"explain (analyze, format json) {statement}", *parameters)
        return [node for node in nodes(json.loads(plan)[0]["Plan"]) if reads_entries(node)], result


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *[node for below in plan.get("Plans", ()) for node in nodes(below)]]


def reads_entries(node: dict[str, Any]) -> bool:
    return node.get("Relation Name") == "budget_entries"


def read(plan: list[dict[str, Any]]) -> int:
    """Return how many entries were read, including those removed by a filter."""
    return sum(
        int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]) for node in plan
    )


class TestPlans:
    @pytest.fixture
    async def big(
        self,
        fresh_database: Callable[[], Awaitable[Copy]],
        settings: Callable[..., Settings],
    ) -> AsyncIterator[Ledger]:
        copy = await fresh_database()
        database = Database(settings("budgets", database=copy))
        connection = await asyncpg.connect(copy.url("budgets_app"))
        ledger = Ledger(database, connection)
        admin = await asyncpg.connect(copy.admin_url)
        try:
            await ledger.fill(admin)
            yield ledger
        finally:
            await admin.close()
            await connection.close()
            await database.close()

    async def test_large_ledger_is_read_by_indexes(self, big: Ledger) -> None:
        budget_ids = big.budget_ids[:3]
        plan, by_day = await big.plan(lambda tx: store.reports.spend_by_day(tx, budget_ids, "UTC"))
        assert {node["Index Name"] for node in plan} == {"budget_entries_budget_idx"}
        assert {node["Node Type"] for node in plan} == {"Index Only Scan"}
        assert (read(plan), sum(spent for _, spent in by_day)) == (1500, 1500)

        query = SummaryQuery(
            entity_ids=[big.entity_id], period_date=date(2026, 5, 1), start_date=None, end_date=None, state=None,
            group_by=GroupBy.CATEGORY, each_group_alone=False,
        )  # fmt: skip
        plan, (summary,) = await big.plan(lambda tx: store.reports.summarize(tx, query))
        assert {node.get("Index Name") for node in plan} <= {"budget_entries_converted_idx", "budget_entries_pkey"}
        assert read(plan) == 10_000, "only the converted entries are read"
        assert (summary.budgets, float(summary.fx_effect)) == (100, 1000.0)

        stream = EntryStreamQuery(start=None, end=datetime.now(UTC) + timedelta(days=1), entity_ids=[])
        plan, page = await big.plan(lambda tx: store.reports.list_entries_after(tx, stream, None, 500))
        assert {node["Index Name"] for node in plan} == {"budget_entries_pkey"}
        assert (read(plan), len(page)) == (500, 500)
        assert [entry.id for entry, _ in page] == sorted(entry.id for entry, _ in page)
