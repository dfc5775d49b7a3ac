"""Usage records become allocations: each once; refused ones are dead-lettered and can be redriven."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import nats as nats_client
import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.events_pb2 import CostAllocated
from billing.operations.v1.operations_service_pb2 import ListDeadLettersRequest, RedriveDeadLetterRequest
from nats.aio.client import Client
from outside.usage.v1.usage_pb2 import UsageRecorded

from eventing import bus
from eventing.consumer import Consumer
from kit.errors import InvalidFields
from kit.rates import RateMissing
from kit.settings import Settings
from services.entities.errors.allocations import AllocationSourceTaken
from services.entities.errors.entities import EntityStateForbids
from tests.entities.allocation_api import AllocationApi, money, money_text
from tests.entities.entities_api import EntitiesApi
from tests.entities.rules_api import RulesApi, target, terms
from tests.entities.usage_records import CONSUMER, UsageTracking, usage
from tests.harness import servers
from tests.harness.callers import Caller
from tests.harness.databases import Copy
from tests.harness.events import Replica
from tests.harness.observe import PublishedEvents
from tests.harness.services import Entities, Served, served

MANY = 1_000


@pytest.fixture
def tracking(nats: Client, tenant: UUID, admin: "asyncpg.Pool[asyncpg.Record]", entities: Entities) -> UsageTracking:
    return UsageTracking(nats, tenant, admin)


@pytest.fixture
async def engineering(api: EntitiesApi) -> Department:
    return await api.create_department(await api.create_entity("ACME", time_zone="Asia/Tokyo"), "ENG", gl_code="6200")


@pytest.fixture
async def replica(entities_served: Served[Entities], tenant: UUID) -> AsyncIterator[Replica]:
    """A second replica of the entities service."""
    from services.entities.main import compose

    service = compose(entities_served.settings)
    yield Replica(service, "entities", tenant, actor="/platform/usage")
    await service.db.close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause between deliveries in milliseconds."""
    monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))


class TestAllocation:
    async def test_record_becomes_an_allocation(
        self, costs: AllocationApi, tracking: UsageTracking, engineering: Department, published_events: PublishedEvents
    ) -> None:
        record = usage(
            engineering, "12.34 EUR", quantity="7.25", unit="GB", description="Storage", record_id="meter-1:17"
        )
        record.usage_time.FromDatetime(datetime(2026, 3, 31, 15, 0, tzinfo=UTC))  # midnight in Tokyo
        await tracking.publish(record)
        await tracking.wait_until_allocated(record)
        (allocation,) = await costs.list_all(engineering)
        assert allocation == Allocation(
            id=allocation.id,
            entity_id=engineering.entity_id,
            department_id=engineering.id,
            department_path=[engineering.id],
            category="cloud",
            source=Allocation.USAGE,
            source_ref="meter-1:17",
            amount=money("12.34 EUR"),
            entity_amount=money("12.34 EUR"),
            quantity="7.25",
            unit="GB",
            gl_code="6200",
            allocation_date="2026-04-01",
            description="Storage",
            actor="/platform/usage",
            create_time=allocation.create_time,
        )
        event = await published_events.first(CostAllocated)
        assert (event.allocation_id, event.source, event.source_ref) == (allocation.id, "USAGE", "meter-1:17")
        assert published_events.headers(CostAllocated)["ce-actor"] == "/platform/usage"

    async def test_codes_instead_of_ids(
        self, api: EntitiesApi, costs: AllocationApi, tracking: UsageTracking, engineering: Department
    ) -> None:
        other = await api.create_department(await api.create_entity("OTHER"), "ENG")  # the same code in another entity
        records = [
            usage(None, "1.00 EUR", entity_code="ACME", department_code="ENG"),
            usage(None, "2.00 EUR", entity_code="OTHER", department_code="ENG"),
            usage(None, "3.00 EUR", entity_id=engineering.entity_id, department_code="ENG"),
            usage(None, "4.00 EUR", entity_code="OTHER", department_id=other.id),
        ]
        await tracking.publish(*records)
        await tracking.wait_until_allocated(*records)
        assert {money_text(each.amount) for each in await costs.list_all(engineering)} == {"1.00 EUR", "3.00 EUR"}
        assert {money_text(each.amount) for each in await costs.list_all(other)} == {"2.00 EUR", "4.00 EUR"}

    async def test_record_without_department_is_allocated_to_the_entity(
        self, costs: AllocationApi, tracking: UsageTracking, engineering: Department, published_events: PublishedEvents
    ) -> None:
        await tracking.publish(usage(None, entity_id=engineering.entity_id))
        allocation = await costs.get((await published_events.first(CostAllocated)).allocation_id)
        assert (allocation.entity_id, allocation.department_id) == (engineering.entity_id, "")

    async def test_foreign_currency_is_converted_at_the_rate_of_the_date(
        self, api: EntitiesApi, costs: AllocationApi, tracking: UsageTracking, engineering: Department
    ) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.9")
        records = [usage(engineering, f"{n}.00 USD") for n in (1, 2)]
        for record in records:
            record.usage_time.FromDatetime(datetime(2026, 3, 5, tzinfo=UTC))
        await tracking.publish(*records)
        await tracking.wait_until_allocated(*records)
        assert {money_text(each.entity_amount) for each in await costs.list_all(engineering)} == {
            "0.90 EUR",
            "1.80 EUR",
        }


class TestOnce:
    async def test_repeated_record_is_allocated_once(
        self, costs: AllocationApi, tracking: UsageTracking, engineering: Department
    ) -> None:
        """Delivered again with the same event id, and published again with others."""
        record, last, event_id = usage(engineering), usage(engineering), uuid4()
        await tracking.publish(record, event_id=event_id)
        await tracking.publish(record, event_id=event_id)
        await tracking.publish(record, record, record)
        await tracking.wait_until_allocated(record)
        await tracking.publish(record, last)
        await tracking.wait_until_allocated(last)
        assert await tracking.count_allocations() == {record.record_id: 1, last.record_id: 1}
        assert sorted(await tracking.published_records()) == sorted([record.record_id, last.record_id])

    async def test_document_allocated_by_a_user_is_not_allocated_again(
        self, costs: AllocationApi, replica: Replica, tracking: UsageTracking, engineering: Department
    ) -> None:
        record = usage(engineering, record_id="r-1")
        await replica.handle(record)
        (allocation,) = await costs.list_all(engineering)
        again = await costs.allocate(
            engineering, source=Allocation.USAGE, source_ref="r-1", category="cloud",
            allocation_date=allocation.allocation_date,
        )  # fmt: skip
        assert again == allocation
        assert await tracking.published_records() == ["r-1"]

    async def test_reversed_record_is_not_allocated_again(
        self, costs: AllocationApi, replica: Replica, tracking: UsageTracking, engineering: Department
    ) -> None:
        record = usage(engineering)
        await replica.handle(record)
        await costs.reverse((await costs.list_all(engineering))[0])
        await replica.handle(record)
        assert len(await costs.list_all(engineering)) == 2
        assert await tracking.published_records() == [record.record_id]

    async def test_repeated_record_that_was_credited_in_full_has_no_effect(
        self, costs: AllocationApi, replica: Replica, tracking: UsageTracking, engineering: Department
    ) -> None:
        record = usage(engineering)
        await replica.handle(record)
        await costs.credit((await costs.list_all(engineering))[0], "10.00 EUR")
        await replica.handle(record)
        assert len(await costs.list_all(engineering)) == 2
        assert await tracking.published_records() == [record.record_id]

    async def test_corrected_record_is_allocated_after_a_reversal(
        self, costs: AllocationApi, replica: Replica, tracking: UsageTracking, engineering: Department
    ) -> None:
        wrong, corrected = usage(engineering, record_id="r-1"), usage(engineering, "7.00 EUR", record_id="r-1")
        await replica.handle(wrong)
        await costs.reverse((await costs.list_all(engineering))[0])
        await replica.handle(corrected)
        await replica.handle(corrected)
        assert sorted(map(money_text, (each.amount for each in await costs.list_all(engineering)))) == [
            "-10.00 EUR", "10.00 EUR", "7.00 EUR",
        ]  # fmt: skip
        assert await tracking.published_records() == ["r-1", "r-1"]

    async def test_repeated_record_of_a_split_allocation_has_no_effect(
        self, api: EntitiesApi, costs: AllocationApi, replica: Replica, engineering: Department, finance: Caller,
        entities: Entities,
    ) -> None:  # fmt: skip
        record = usage(engineering)
        await replica.handle(record)
        (whole,) = await costs.list_all(engineering)
        sales = await api.create_department(await api.create_entity("OTHER"), "SALES")
        await RulesApi(finance, entities).split(allocation_id=whole.id, terms=terms(target(sales)))
        await replica.handle(record)
        assert len(await costs.list_all(engineering)) == 2

    async def test_record_ids_are_per_tenant(
        self, costs: AllocationApi, replica: Replica, engineering: Department,
        other_tenant: tuple[EntitiesApi, AllocationApi], nats: Client, admin: "asyncpg.Pool[asyncpg.Record]",
    ) -> None:  # fmt: skip
        await replica.handle(usage(engineering, record_id="r-1"))
        their_api, their_costs = other_tenant
        foreign = await their_api.create_department(await their_api.create_entity("ACME"))
        their_usage = UsageTracking(nats, their_costs.caller.tenant_id, admin)
        record = usage(None, "3.00 EUR", entity_code="ACME", department_code="ENG", record_id="r-1")
        await their_usage.publish(record)
        await their_usage.wait_until_allocated(record)
        assert [money_text(each.amount) for each in await their_costs.list_all(foreign)] == ["3.00 EUR"]
        assert [money_text(each.amount) for each in await costs.list_all(engineering)] == ["10.00 EUR"]

    async def test_two_replicas_allocate_each_record_once(
        self, tracking: UsageTracking, replica: Replica, engineering: Department
    ) -> None:
        """While the service receives them from NATS, a second replica handles the same in another order."""
        records = [usage(engineering, "0.01 EUR") for _ in range(MANY)]
        twice = asyncio.gather(*map(replica.handle, reversed(records)))
        await tracking.publish(*records, *records[::3])
        await twice
        await tracking.wait_until_allocated(*records)
        assert await tracking.count_allocations() == {each.record_id: 1 for each in records}
        assert sorted(await tracking.published_records()) == sorted(each.record_id for each in records)


class TestStoppedReplica:
    async def test_next_replica_allocates_the_rest_once(
        self, fresh_database: Callable[[], Awaitable[Copy]], settings: Callable[..., Settings], finance: Caller,
        tenant: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """A consuming replica stops in the middle several times, and another one continues.

        Events in flight to the stopped one are redelivered after three seconds here, instead of a minute.
        """
        from services.entities.main import compose

        monkeypatch.setattr("eventing.consumer._ACK_WAIT_S", 3)
        database = await fresh_database()
        records: list[UsageRecorded] = []
        async with own_stream(tmp_path) as (nats, nats_url), asyncpg.create_pool(database.admin_url, min_size=1) as own:
            settings_here, tracking = (
                settings("entities", database=database, nats_url=nats_url),
                UsageTracking(nats, tenant, own),
            )
            for turn in range(3):
                async with served(settings_here, compose, Entities) as entities:
                    api = EntitiesApi(finance, entities.stubs)
                    department = await api.create_department(await api.create_entity(f"E{turn}"))
                    some = [usage(department, "0.01 EUR") for _ in range(MANY)]
                    records += some
                    saying = asyncio.create_task(tracking.publish(*some, *some[::5]))
                    await tracking.wait_until_allocated(some[0])  # and others are in flight
                await saying
            async with served(settings_here, compose, Entities):
                await tracking.wait_until_allocated(*records, within_s=60)
                assert await tracking.count_allocations() == {each.record_id: 1 for each in records}
                assert sorted(await tracking.published_records()) == sorted(each.record_id for each in records)


@contextlib.asynccontextmanager
async def own_stream(folder: Path) -> AsyncIterator[tuple[Client, str]]:
    """A NATS server without other consumers."""
    with servers.nats(folder) as url:
        client = await nats_client.connect(url)
        await bus.ensure_stream(client.jetstream())
        yield client, url
        await client.close()


class TestDeadLetters:
    async def test_refused_record_is_dead_lettered_with_its_error(
        self, api: EntitiesApi, tracking: UsageTracking, engineering: Department, pauses: None
    ) -> None:
        closed = await api.create_department(await api.create_entity("CLOSED"))
        await api.deactivate(closed.entity_id)
        bad: dict[str, UsageRecorded] = {
            "no entity has the code 'NOBODY'": usage(None, entity_code="NOBODY"),
            "no department has the code 'NOBODY'": usage(None, entity_code="ACME", department_code="NOBODY"),
            "EntityStateForbids": usage(closed),
            "DepartmentOfOtherEntity": usage(None, entity_id=engineering.entity_id, department_id=closed.id),
            "No exchange rate from USD to EUR": usage(engineering, "1.00 USD"),
            "must be above zero": usage(engineering, "0.00 EUR"),
            "has 3 decimal places": usage(engineering, "1.001 EUR"),
            "amount": usage(engineering, "-1.00 EUR"),
            "entity_id": usage(None),
            "record_id": usage(engineering, record_id=" "),
            "usage_time": UsageRecorded(record_id="t", entity_id=engineering.entity_id, amount=money("1.00 EUR")),
        }
        good = usage(engineering)
        await tracking.publish(*bad.values(), good)
        await tracking.wait_until_allocated(good)
        errors = [letter["error"] for letter in await tracking.wait_for_dead_letters(len(bad))]
        assert len(errors) == len(bad)
        for text in bad:
            assert any(text in error for error in errors), (text, errors)
        assert await tracking.count_allocations() == {good.record_id: 1}

    async def test_record_with_other_contents_is_dead_lettered(
        self, costs: AllocationApi, tracking: UsageTracking, engineering: Department, pauses: None
    ) -> None:
        await tracking.publish(usage(engineering, record_id="r-1"))
        await tracking.wait_until_allocated(usage(engineering, record_id="r-1"))
        await tracking.publish(usage(engineering, "11.00 EUR", record_id="r-1"))
        (letter,) = await tracking.wait_for_dead_letters()
        (allocation,) = await costs.list_all(engineering)
        assert "AllocationSourceTaken" in letter["error"]
        assert allocation.id in letter["error"]
        assert money_text(allocation.amount) == "10.00 EUR"

    async def test_redriven_record_is_allocated(
        self, api: EntitiesApi, costs: AllocationApi, tracking: UsageTracking, engineering: Department,
        caller: Callable[..., Caller], entities: Entities, pauses: None,
    ) -> None:  # fmt: skip
        record = usage(engineering, "2.00 USD")
        record.usage_time.FromDatetime(datetime(2026, 3, 5, tzinfo=UTC))
        await tracking.publish(record)
        (letter,) = await tracking.wait_for_dead_letters()
        operator = caller("billing_admin")
        request = RedriveDeadLetterRequest(consumer=CONSUMER, event_id=str(letter["event_id"]))
        await api.set_rates("2026-03-01 USD/EUR 0.9")
        await operator.call(entities.operations.RedriveDeadLetter, request)
        assert [money_text(each.entity_amount) for each in await costs.list_all(engineering)] == ["1.80 EUR"]
        response = await operator.call(entities.operations.ListDeadLetters, ListDeadLettersRequest())
        assert not response.dead_letters

    async def test_malformed_event_is_dead_lettered(self, tracking: UsageTracking, pauses: None) -> None:
        await tracking.publish_raw("{")
        (letter,) = await tracking.wait_for_dead_letters()
        assert letter["body"] == "{"


class TestBatch:
    async def test_refused_record_does_not_affect_the_others(
        self, replica: Replica, tracking: UsageTracking, engineering: Department
    ) -> None:
        good = [usage(engineering) for _ in range(50)]
        bad = [usage(engineering, "1.00 USD"), usage(None, entity_code="NOBODY")]
        outcomes = await asyncio.gather(*map(replica.handle, [*good[:25], *bad, *good[25:]]), return_exceptions=True)
        error = [each for each in outcomes if each]
        assert [type(each) for each in error] == [RateMissing, InvalidFields]
        assert await tracking.count_allocations() == {each.record_id: 1 for each in good}

    async def test_database_error_of_one_record_does_not_affect_the_others(
        self, replica: Replica, tracking: UsageTracking, engineering: Department, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        """An unexpected error."""
        tenant_id = tracking.tenant_id
        name = f"unforeseen_{tenant_id.hex}"
        forbid = f"check (tenant_id <> '{tenant_id}' or category <> 'unforeseen') not valid"
        await admin.execute(f"alter table entities.cost_allocations add constraint {name} {forbid}")
        try:
            records = [usage(engineering) for _ in range(10)]
            records[4].category = "unforeseen"
            outcomes = await asyncio.gather(*map(replica.handle, records), return_exceptions=True)
        finally:
            await admin.execute(f"alter table entities.cost_allocations drop constraint {name}")
        assert [number for number, each in enumerate(outcomes) if each] == [4]
        assert await tracking.count_allocations() == {each.record_id: 1 for each in records if each.category == "cloud"}

    async def test_tenants_are_separate(
        self, nats: Client, admin: "asyncpg.Pool[asyncpg.Record]", entities: Entities, caller: Callable[..., Caller]
    ) -> None:
        async def one(number: int) -> tuple[UsageTracking, list[UsageRecorded]]:
            other = caller("finance", tenant=uuid4())
            api = EntitiesApi(other, entities)
            department = await api.create_department(await api.create_entity("ACME"))
            records = [usage(department, f"{number}.00 EUR", record_id=f"r-{each}") for each in range(20)]
            return UsageTracking(nats, other.tenant_id, admin), records

        tenants = [await one(number) for number in range(1, 6)]
        await asyncio.gather(*(tracking.publish(*records) for tracking, records in tenants))
        for tracking, records in tenants:
            await tracking.wait_until_allocated(*records)
            assert await tracking.count_allocations() == {each.record_id: 1 for each in records}
            assert len(await tracking.published_records()) == len(records)

    async def test_inactive_entity_is_an_error_of_its_record(
        self, api: EntitiesApi, replica: Replica, engineering: Department
    ) -> None:
        await api.deactivate(engineering.entity_id)
        with pytest.raises(EntityStateForbids):
            await replica.handle(usage(engineering))

    async def test_second_record_with_other_contents_is_refused(
        self, replica: Replica, tracking: UsageTracking, engineering: Department
    ) -> None:
        pair = usage(engineering, record_id="r-1"), usage(engineering, "11.00 EUR", record_id="r-1")
        outcomes = await asyncio.gather(*map(replica.handle, pair), return_exceptions=True)
        assert [type(each) for each in outcomes if each] == [AllocationSourceTaken]
        assert await tracking.count_allocations() == {"r-1": 1}
