"""Cost reports for other services: sums over many entities, and the stream of allocations."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations

import pytest
from billing.entities.v1.cost_pb2 import CostSummary
from billing.entities.v1.entity_pb2 import Entity
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode, aio

from kit import clock, ids
from tests.entities.allocation_api import money_text
from tests.entities.costs_api import CostsApi
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.services import Entities
from tests.harness.tokens import Keys


@pytest.fixture
def api_for(entities: Entities) -> Callable[[Caller], CostsApi]:
    return lambda caller: CostsApi(caller, entities)


@pytest.fixture
def api(api_for: Callable[[Caller], CostsApi], finance: Caller) -> CostsApi:
    return api_for(finance)


@pytest.fixture
def service_api(api_for: Callable[[Caller], CostsApi], service_caller: Caller) -> CostsApi:
    return api_for(service_caller)


@pytest.fixture
async def companies(api: CostsApi) -> tuple[Entity, Entity, Entity]:
    """DE and FR have the currency EUR, US has USD. All have costs; two of them in one department."""
    de, fr = await api.create_entity("DE"), await api.create_entity("FR")
    us = await api.create_entity("US", currency_code="USD")
    await api.set_rates("2026-03-20 EUR/USD 1.25", "2026-04-20 EUR/USD 2")
    it, sales = await api.create_department(de, "IT"), await api.create_department(us, "SALES")
    await api.allocate(it, "2026-03-31", "10.00 EUR", category="cloud", gl_code="6000")
    mistake = await api.allocate(it, "2026-04-01", "1.25 USD", category="cloud")
    await api.reverse(mistake)
    await api.allocate_to_entity(de, "2026-04-30", "3.00 EUR", category="rent")
    await api.allocate_to_entity(fr, "2026-04-01", "5.00 EUR", category="rent")
    await api.allocate(sales, "2026-04-01", "7.00 USD", category="travel")
    return de, fr, us


def sum_values(summary: CostSummary) -> tuple[str, int, int]:
    return money_text(summary.cost), summary.allocation_count, summary.reversal_count


class TestSummarizeCosts:
    async def test_currencies_are_never_added_up(self, service_api: CostsApi, companies: tuple[Entity, ...]) -> None:
        result = await service_api.summary()
        assert [sum_values(each) for each in result.summaries] == [("18.00 EUR", 4, 1), ("7.00 USD", 1, 0)]
        assert not result.conversion_rates
        assert not any(each.HasField("converted_cost") for each in result.summaries)

    async def test_groups_by_entity_and_department(
        self, service_api: CostsApi, api: CostsApi, companies: tuple[Entity, ...]
    ) -> None:
        result = (await service_api.summary(by=["ENTITY", "DEPARTMENT"])).summaries
        codes = {entity.id: entity.code for entity in companies}
        keys = [(codes[each.entity_id], each.department_id[:4], sum_values(each)) for each in result]
        assert sorted(keys) == [
            ("DE", "", ("3.00 EUR", 1, 0)), ("DE", "dep_", ("10.00 EUR", 2, 1)), ("FR", "", ("5.00 EUR", 1, 0)),
            ("US", "dep_", ("7.00 USD", 1, 0)),
        ]  # fmt: skip

    async def test_groups_by_month_category_and_gl_code(
        self, service_api: CostsApi, companies: tuple[Entity, ...]
    ) -> None:
        result = (await service_api.summary(by=["MONTH", "CATEGORY", "GL_CODE"])).summaries
        assert [(each.month, each.category, each.gl_code, sum_values(each)) for each in result] == [
            ("2026-03", "cloud", "6000", ("10.00 EUR", 1, 0)),
            ("2026-04", "cloud", "", ("0.00 EUR", 1, 1)),
            ("2026-04", "rent", "", ("8.00 EUR", 2, 0)),
            ("2026-04", "travel", "", ("7.00 USD", 1, 0)),
        ]

    async def test_filters_by_entity_and_date(self, service_api: CostsApi, companies: tuple[Entity, ...]) -> None:
        de, fr, us = companies
        result = await service_api.summary(de, us, period=("2026-03-31", "2026-04-30"))
        assert [sum_values(each) for each in result.summaries] == [("10.00 EUR", 2, 1), ("7.00 USD", 1, 0)]
        assert not (await service_api.summary(fr, period=("2026-03-01", "2026-04-01"))).summaries
        unknown_id = Entity(id=ids.ENTITY.format(ids.new()))
        assert not (await service_api.summary(unknown_id)).summaries

    async def test_converts_all_sums_and_returns_the_rates(
        self, service_api: CostsApi, companies: tuple[Entity, ...]
    ) -> None:
        period = ("2026-01-01", "2026-05-01")
        result = await service_api.summary(period=period, by=["CATEGORY"], currency_code="USD")
        costs = [(each.category, money_text(each.cost), money_text(each.converted_cost)) for each in result.summaries]
        assert costs == [
            ("cloud", "10.00 EUR", "20.00 USD"), ("rent", "8.00 EUR", "16.00 USD"), ("travel", "7.00 USD", "7.00 USD"),
        ]  # fmt: skip
        rates = [
            (rate.from_currency, rate.rate, rate.rate_date, rate.conversion_date) for rate in result.conversion_rates
        ]
        assert rates == [("EUR", "2", "2026-04-20", "2026-04-30"), ("USD", "1", "2026-04-30", "2026-04-30")]

    async def test_converted_costs_sum_to_the_same_total_for_every_grouping(
        self, api: CostsApi, service_api: CostsApi
    ) -> None:
        de, us = await api.create_entity("DE"), await api.create_entity("US", currency_code="USD")
        await api.set_rates("2026-03-20 EUR/CHF 1.028", "2026-03-20 USD/CHF 0.895")
        it, sales = await api.create_department(de, "IT"), await api.create_department(us, "SALES")
        for index, cents in enumerate((11, 15, 12, 6, 16, 18)):
            fields = {"category": f"c{index}", "gl_code": f"{index // 2}"}
            await api.allocate(it, f"2026-03-{20 + index}", f"0.{cents:02} EUR", **fields)
            await api.allocate(sales, f"2026-03-{20 + index}", f"0.{cents:02} USD", **fields)
        period = ("2026-03-01", "2026-04-01")
        for count in range(4):
            for by in combinations(("ENTITY", "DEPARTMENT", "CATEGORY", "GL_CODE", "MONTH"), count):
                result = await service_api.summary(period=period, by=by, currency_code="CHF")
                total = sum(Decimal(each.converted_cost.amount) for each in result.summaries)
                assert total == Decimal("1.50"), by  # 0.78 × (1.028 + 0.895) = 1.49994

    async def test_missing_rate_is_refused_with_its_day(
        self, service_api: CostsApi, companies: tuple[Entity, ...]
    ) -> None:
        period = ("2026-01-01", "2026-05-01")
        error = await refusal(service_api.summary(period=period, currency_code="CHF"))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "RATE_MISSING")
        assert error.metadata == {"from_currency_code": "EUR", "to_currency_code": "CHF", "rate_date": "2026-04-30"}

    async def test_other_tenant_has_other_costs(
        self, api: CostsApi, companies: tuple[Entity, ...], api_for: Callable[[Caller], CostsApi],
        keys: Keys,
    ) -> None:  # fmt: skip
        other = ids.new()
        other_tenant = api_for(Caller(other, "service:reporting", keys.service_token("reporting", other)))
        assert not (await other_tenant.summary()).summaries
        assert not (await other_tenant.summary(*companies)).summaries
        assert not await other_tenant.stream(end_time=soon())

    async def test_only_services_can_call(self, api: CostsApi) -> None:
        assert (await refusal(api.summary())).metadata == {"permission": "service"}


def soon() -> Timestamp:
    """A time after all allocations."""
    return at(clock.now() + timedelta(minutes=1))


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(UTC))
    return stamp


class TestStreamAllocations:
    async def test_streams_each_once_in_the_order_of_creation(
        self, service_api: CostsApi, companies: tuple[Entity, ...]
    ) -> None:
        allocations = await service_api.stream(end_time=soon())
        assert [money_text(allocation.amount) for allocation in allocations] == [
            "10.00 EUR", "1.25 USD", "-1.25 USD", "3.00 EUR", "5.00 EUR", "7.00 USD",
        ]  # fmt: skip
        mistake, reversal = allocations[1:3]
        assert (mistake.reversed_by_id, reversal.reversal_of_id) == (reversal.id, mistake.id)
        assert [allocation.id for allocation in allocations] == sorted(allocation.id for allocation in allocations)

    async def test_continues_after_the_last_one_received(
        self, service_api: CostsApi, companies: tuple[Entity, ...]
    ) -> None:
        everything = await service_api.stream(end_time=soon())
        for place, allocation in enumerate(everything):
            assert await service_api.stream(end_time=soon(), last_event_id=allocation.id) == everything[place + 1 :]

    async def test_filters_by_entity_and_time(self, service_api: CostsApi, companies: tuple[Entity, ...]) -> None:
        _, fr, us = companies
        allocations = await service_api.stream(end_time=soon(), entity_ids=[fr.id, us.id])
        assert [allocation.entity_id for allocation in allocations] == [fr.id, us.id]
        last = allocations[-1].create_time
        assert await service_api.stream(end_time=soon(), start_time=last) == allocations[-1:]
        assert await service_api.stream(end_time=last, entity_ids=[fr.id, us.id]) == allocations[:-1]

    async def test_allocations_of_the_last_minute_are_left_out(
        self, service_api: CostsApi, companies: tuple[Entity, ...]
    ) -> None:
        assert await service_api.stream() == []

    async def test_streams_more_than_one_batch(self, api: CostsApi, service_api: CostsApi) -> None:
        department = await api.create_department(await api.create_entity())
        count = 1_001
        await api.allocate_many(department, "2026-05-01", count)
        allocations = await service_api.stream(end_time=soon())
        assert len({allocation.id for allocation in allocations}) == len(allocations) == count

    async def test_only_services_can_call(self, api: CostsApi) -> None:
        with pytest.raises(aio.AioRpcError) as error:
            await api.stream()
        assert Refusal.of(error.value).metadata == {"permission": "service"}
