"""Allocations of single costs: fields, conversion, errors, documents, events and access."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.events_pb2 import CostAllocated
from grpc import StatusCode

from kit import clock, ids
from tests.entities.allocation_api import AllocationApi, line, money, money_text, today
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents

UNKNOWN_ID = ids.DEPARTMENT.format(ids.new())


@pytest.fixture
async def engineering(api: EntitiesApi) -> Department:
    return await api.create_department(await api.create_entity("ACME"), "ENG", gl_code="6200")


class TestAllocateCost:
    async def test_has_the_given_fields(self, api: EntitiesApi, costs: AllocationApi) -> None:
        acme, supplier = await api.create_entity("ACME"), await api.create_entity("SUPPLIER")
        top = await api.create_department(acme, "TOP")
        department = await api.create_department(acme, "ENG", parent_id=top.id)
        fields: dict[str, Any] = {
            "category": "cloud", "source": Allocation.INVOICE, "source_ref": "inv-7/1", "quantity": "12.5",
            "unit": "GB", "gl_code": "6100", "counterparty_entity_id": supplier.id, "description": "Größe: ∞",
            "allocation_date": "2026-03-31",
        }  # fmt: skip
        allocation = await costs.allocate(department, "99.90 EUR", **fields)
        assert allocation == Allocation(
            **fields,
            id=allocation.id,
            entity_id=acme.id,
            department_id=department.id,
            department_path=[top.id, department.id],
            amount=money("99.90 EUR"),
            entity_amount=money("99.90 EUR"),
            actor="alice",
            create_time=allocation.create_time,
        )
        assert abs(allocation.create_time.ToDatetime() - clock.now().replace(tzinfo=None)) < timedelta(minutes=1)
        assert await costs.get(allocation) == allocation

    async def test_defaults(self, costs: AllocationApi, engineering: Department) -> None:
        allocation = await costs.allocate(engineering)
        assert (allocation.source, allocation.gl_code, allocation.source_ref, allocation.quantity) == (
            Allocation.MANUAL,
            "6200",
            "",
            "",
        )
        assert not allocation.counterparty_entity_id

    async def test_same_cost_without_document_is_allocated_again(
        self, costs: AllocationApi, engineering: Department
    ) -> None:
        assert (await costs.allocate(engineering)).id != (await costs.allocate(engineering)).id

    async def test_path_stays_when_the_department_moves(
        self, api: EntitiesApi, costs: AllocationApi, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        acme = await api.create_entity("ACME")
        old, new = await api.create_department(acme, "OLD"), await api.create_department(acme, "NEW")
        department = await api.create_department(acme, "ENG", parent_id=old.id)
        before = await costs.allocate(department)
        moved = "update entities.department_history set parent_id = $1 where department_id = $2"
        await admin.execute(moved, ids.DEPARTMENT.parse(new.id), ids.DEPARTMENT.parse(department.id))
        assert list((await costs.get(before)).department_path) == [old.id, department.id]
        assert list((await costs.allocate(department)).department_path) == [new.id, department.id]

    async def test_database_refuses_changes_and_deletion(
        self, costs: AllocationApi, engineering: Department, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        allocation = ids.ALLOCATION.parse((await costs.allocate(engineering)).id)
        for statement in ("update entities.cost_allocations set amount = 1", "delete from entities.cost_allocations"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await admin.execute(f"{statement} where id = $1", allocation)


class TestCurrencies:
    @pytest.fixture
    async def swiss(self, api: EntitiesApi) -> Department:
        return await api.create_department(await api.create_entity("CH", currency_code="CHF"), "ENG")

    async def test_foreign_currency_is_converted_at_the_rate_of_the_date(
        self, api: EntitiesApi, costs: AllocationApi, swiss: Department
    ) -> None:
        await api.set_rates("2026-03-01 USD/CHF 0.9", "2026-03-20 USD/CHF 0.8")
        allocation = await costs.allocate(swiss, "10.00 USD", allocation_date="2026-03-15")
        assert money_text(allocation.amount) == "10.00 USD"
        assert (money_text(allocation.entity_amount), allocation.rate, allocation.rate_date) == (
            "9.00 CHF",
            "0.9",
            "2026-03-01",
        )

    @pytest.mark.parametrize(
        ("amount", "rate", "converted"),
        [
            ("1.00 USD", "0.125", "0.12 CHF"),  # half to even
            ("3.00 USD", "0.125", "0.38 CHF"),
            ("1.00 USD", "0.1250001", "0.13 CHF"),
            ("0.01 USD", "0.4", "0.00 CHF"),
            ("1 JPY", "0.006", "0.01 CHF"),
            ("0.001 BHD", "2.35", "0.00 CHF"),
        ],
    )
    async def test_conversion_rounds_half_to_even(
        self, api: EntitiesApi, costs: AllocationApi, swiss: Department, amount: str, rate: str, converted: str
    ) -> None:
        await api.set_rates(f"2026-03-01 {amount.split()[1]}/CHF {rate}")
        allocation = await costs.allocate(swiss, amount, allocation_date="2026-03-15")
        assert (money_text(allocation.amount), money_text(allocation.entity_amount)) == (amount, converted)

    async def test_derived_rate_is_stored(self, api: EntitiesApi, costs: AllocationApi, swiss: Department) -> None:
        await api.set_rates("2026-03-01 EUR/USD 1.1", "2026-03-02 EUR/CHF 0.95")
        allocation = await costs.allocate(swiss, "100.00 USD", allocation_date="2026-03-15")
        assert (money_text(allocation.entity_amount), allocation.rate_date) == ("86.36 CHF", "2026-03-02")
        assert allocation.rate.startswith("0.8636363636")
        assert await costs.get(allocation) == allocation

    async def test_missing_rate_is_refused_with_pair_and_day(
        self, api: EntitiesApi, costs: AllocationApi, swiss: Department
    ) -> None:
        await api.set_rates("2026-03-01 USD/CHF 0.9")
        error = await refusal(costs.allocate(swiss, "10.00 USD", allocation_date="2026-02-28"))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "RATE_MISSING")
        assert error.metadata == {
            "from_currency_code": "USD", "to_currency_code": "CHF", "rate_date": "2026-02-28",
        }  # fmt: skip

    async def test_refusal_of_an_old_rate_states_how_long_a_rate_is_effective(
        self, api: EntitiesApi, costs: AllocationApi, swiss: Department
    ) -> None:
        await api.set_rates("2026-03-01 USD/CHF 0.9")
        await costs.allocate(swiss, "10.00 USD", allocation_date="2026-04-05")
        error = await refusal(costs.allocate(swiss, "10.00 USD", allocation_date="2026-04-06"))
        assert error.reason == "RATE_MISSING"
        assert "effective for at most 35 days" in error.message

    async def test_too_large_converted_amount_is_refused(
        self, api: EntitiesApi, costs: AllocationApi, swiss: Department
    ) -> None:
        await api.set_rates("2026-03-01 USD/CHF 10")
        error = await refusal(costs.allocate(swiss, "1000000000000.00 USD", allocation_date="2026-03-01"))
        assert (error.reason, error.metadata["rate_date"]) == ("AMOUNT_TOO_LARGE", "2026-03-01")
        assert "at the rate 10 of 2026-03-01" in error.message
        allocation = await costs.allocate(swiss, "999999999999.99 USD", allocation_date="2026-03-01")
        assert money_text(allocation.entity_amount) == "9999999999999.90 CHF"

    async def test_amount_with_too_many_digits_at_the_product_of_two_rates_is_refused(
        self, api: EntitiesApi, costs: AllocationApi, swiss: Department
    ) -> None:
        await api.set_rates("2026-03-01 USD/EUR 100000000000", "2026-03-01 EUR/CHF 100000000000")
        error = await refusal(costs.allocate(swiss, "1000000.00 USD", allocation_date="2026-03-01"))
        assert (error.reason, error.metadata["to_currency_code"]) == ("AMOUNT_TOO_LARGE", "CHF")


class TestRefused:
    async def test_inactive_entity_is_refused(self, api: EntitiesApi, costs: AllocationApi) -> None:
        acme = await api.create_entity("ACME")
        department = await api.create_department(acme)
        await api.deactivate(acme)
        error = await refusal(costs.allocate(department))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_STATE")
        assert error.metadata["entity_id"] == acme.id

    async def test_inactive_department_is_refused(
        self, costs: AllocationApi, engineering: Department, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        closed = (
            "update entities.departments set state = 'INACTIVE', state_changes = array[current_date - 1] where id = $1"
        )
        await admin.execute(closed, ids.DEPARTMENT.parse(engineering.id))
        error = await refusal(costs.allocate(engineering))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "DEPARTMENT_INACTIVE_ON_DATE")

    async def test_unknown_department_is_not_found(self, costs: AllocationApi) -> None:
        assert (await refusal(costs.allocate(UNKNOWN_ID))).reason == "DEPARTMENT_NOT_FOUND"

    @pytest.mark.parametrize("amount", ["0.00 EUR", "-1.00 EUR", "1.001 EUR", "1 XXX", "0.5 JPY", "1e3 EUR"])
    async def test_amount_must_be_above_zero(self, costs: AllocationApi, engineering: Department, amount: str) -> None:
        assert (await refusal(costs.allocate(engineering, amount))).reason == "INVALID_FIELDS"

    @pytest.mark.parametrize(
        "fields",
        [
            {"allocation_date": "2026-02-30"}, {"allocation_date": ""}, {"quantity": "-1"}, {"quantity": "1.1234567"},
            {"source": Allocation.SPLIT}, {"source": 9}, {"source_ref": "a b"}, {"category": "x" * 101},
            {"counterparty_entity_id": UNKNOWN_ID},
        ],
    )  # fmt: skip
    async def test_invalid_fields_are_refused(
        self, costs: AllocationApi, engineering: Department, fields: dict[str, Any]
    ) -> None:
        error = await refusal(costs.allocate(engineering, **fields))
        assert error.reason == "INVALID_FIELDS"
        assert set(error.fields) == set(fields)

    async def test_key_is_required(self, costs: AllocationApi, engineering: Department) -> None:
        error = await refusal(costs.allocate(engineering, request_id=" "))
        assert set(error.fields) == {"request_id"}

    async def test_date_more_than_a_year_ahead_is_refused(self, costs: AllocationApi, engineering: Department) -> None:
        latest = clock.now().date() + timedelta(days=366)
        allocation = await costs.allocate(engineering, allocation_date=latest.isoformat())
        assert allocation.allocation_date == latest.isoformat()
        error = await refusal(costs.allocate(engineering, allocation_date=(latest + timedelta(days=1)).isoformat()))
        assert error.reason == "ALLOCATION_DATE_TOO_FAR"
        assert error.metadata["latest_date"] == latest.isoformat()

    async def test_entity_cannot_be_its_own_counterparty(self, costs: AllocationApi, engineering: Department) -> None:
        error = await refusal(costs.allocate(engineering, counterparty_entity_id=engineering.entity_id))
        assert error.rules == {"counterparty_entity_id": "counterparty.other"}

    async def test_unknown_counterparty_is_not_found(self, costs: AllocationApi, engineering: Department) -> None:
        unknown_id = ids.ENTITY.format(ids.new())
        error = await refusal(costs.allocate(engineering, counterparty_entity_id=unknown_id))
        assert (error.reason, error.metadata["entity_id"]) == ("ENTITY_NOT_FOUND", unknown_id)


class TestDocuments:
    async def test_document_is_allocated_once(
        self, costs: AllocationApi, engineering: Department, published_events: PublishedEvents
    ) -> None:
        first = await costs.allocate(engineering, source=Allocation.USAGE, source_ref="u-1", category="cloud")
        again = await costs.allocate(engineering, source=Allocation.USAGE, source_ref="u-1", category="cloud")
        other = await costs.allocate(engineering, source=Allocation.INVOICE, source_ref="u-1", category="cloud")
        assert again == first
        assert other.id != first.id
        assert [event.source_ref for event in await published_events.at_least(2, CostAllocated)] == ["u-1", "u-1"]
        assert len(await costs.list_all(engineering)) == 2

    @pytest.mark.parametrize(
        ("changed", "amount"),
        [
            ({"category": "people"}, "10.00 EUR"), ({}, "10.01 EUR"), ({}, "10.00 USD"),
            ({"quantity": "2"}, "10.00 EUR"), ({"allocation_date": "2026-01-02"}, "10.00 EUR"),
            ({"gl_code": "1"}, "10.00 EUR"), ({"unit": "h"}, "10.00 EUR"), ({"description": "?"}, "10.00 EUR"),
        ],
    )  # fmt: skip
    async def test_document_with_other_contents_is_refused_naming_the_existing(
        self, costs: AllocationApi, engineering: Department, changed: dict[str, Any], amount: str
    ) -> None:
        fields = {"source_ref": "u-1", "allocation_date": "2026-01-01"}
        first = await costs.allocate(engineering, "10.00 EUR", **fields)
        error = await refusal(costs.allocate(engineering, amount, **{**fields, **changed}))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "ALLOCATION_SOURCE_TAKEN")
        assert error.metadata["allocation_id"] == first.id
        assert error.metadata["differs"] == next(iter(changed), "amount")

    async def test_omitted_optional_fields_do_not_differ(
        self, api: EntitiesApi, costs: AllocationApi, engineering: Department
    ) -> None:
        first = await costs.allocate(engineering, source_ref="u-1", quantity="1.50")
        await api.update_department(engineering, gl_code="6300")
        assert await costs.allocate(engineering, source_ref="u-1", quantity="1.5") == first

    async def test_repetition_succeeds_after_deactivation_of_the_department(
        self, api: EntitiesApi, costs: AllocationApi, engineering: Department
    ) -> None:
        first = await costs.allocate(engineering, source_ref="u-1")
        await api.deactivate(engineering.entity_id)
        assert await costs.allocate(engineering, source_ref="u-1") == first

    async def test_of_concurrent_allocations_of_a_document_one_is_created(
        self, costs: AllocationApi, engineering: Department, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        allocation = await asyncio.gather(*(costs.allocate(engineering, source_ref="u-1") for _ in range(24)))
        assert len({each.id for each in allocation}) == 1
        counted = "select count(*) from entities.cost_allocations where tenant_id = $1"
        published = "select count(*) from entities.outbox where tenant_id = $1 and type like '%CostAllocated'"
        assert [await admin.fetchval(each, costs.caller.tenant_id) for each in (counted, published)] == [1, 1]

    async def test_documents_are_per_tenant(
        self, costs: AllocationApi, engineering: Department, other_tenant: tuple[EntitiesApi, AllocationApi]
    ) -> None:
        first = await costs.allocate(engineering, source_ref="u-1")
        their_api, their_costs = other_tenant
        theirs = await their_api.create_department(await their_api.create_entity("ACME"))
        assert (await their_costs.allocate(theirs, source_ref="u-1")).id != first.id


class TestKeys:
    async def test_repeated_key_returns_same_allocation(
        self, costs: AllocationApi, engineering: Department, published_events: PublishedEvents
    ) -> None:
        key = uuid4().hex
        allocation = await asyncio.gather(*(costs.allocate(engineering, request_id=key) for _ in range(8)))
        assert len({each.id for each in allocation}) == 1
        await costs.allocate(engineering, description="the last one")
        assert len(await published_events.at_least(2, CostAllocated)) == 2

    async def test_key_with_another_cost_is_refused(self, costs: AllocationApi, engineering: Department) -> None:
        await costs.allocate(engineering, request_id="k")
        error = await refusal(costs.allocate(engineering, "11.00 EUR", request_id="k"))
        assert error.reason == "IDEMPOTENCY_MISMATCH"


class TestEvents:
    async def test_cost_allocated_is_published(
        self, api: EntitiesApi, costs: AllocationApi, engineering: Department, published_events: PublishedEvents
    ) -> None:
        await api.set_rates(f"{today()} USD/EUR 0.5")
        allocation = await costs.allocate(
            engineering, "10.00 USD", category="cloud", source=Allocation.CONTRACT, source_ref="c-1", description="Why"
        )
        assert await published_events.first(CostAllocated) == CostAllocated(
            allocation_id=allocation.id,
            entity_id=allocation.entity_id,
            department_id=engineering.id,
            department_path=[engineering.id],
            entity_path=[allocation.entity_id],
            category="cloud",
            gl_code="6200",
            amount=money("10.00 USD"),
            allocation_date=today(),
            source="CONTRACT",
            source_ref="c-1",
            description="Why",
        )
        assert published_events.headers(CostAllocated)["ce-actor"] == "alice"

    async def test_event_names_the_entities_above(
        self, api: EntitiesApi, costs: AllocationApi, published_events: PublishedEvents
    ) -> None:
        holding = await api.create_entity("HOLDING")
        division = await api.create_entity("DIVISION", parent_id=holding.id)
        branch = await api.create_entity("BRANCH", parent_id=division.id)
        await costs.batch(line(branch), line(holding), atomic=True)
        events = await published_events.at_least(2, CostAllocated)
        assert {event.entity_id: [*event.entity_path] for event in events} == {
            branch.id: [holding.id, division.id, branch.id], holding.id: [holding.id],
        }  # fmt: skip

    async def test_refused_cost_is_not_published(
        self, costs: AllocationApi, engineering: Department, published_events: PublishedEvents
    ) -> None:
        await refusal(costs.allocate(UNKNOWN_ID))
        allocation = await costs.allocate(engineering)
        assert [event.allocation_id for event in await published_events.at_least(1, CostAllocated)] == [allocation.id]


class TestAccess:
    @pytest.mark.parametrize("role", ["viewer", "auditor", "department_manager", "procurement", "approver"])
    async def test_viewer_cannot_allocate(
        self, costs_of: Callable[[Caller], AllocationApi], caller: Callable[..., Caller], engineering: Department,
        role: str,
    ) -> None:  # fmt: skip
        error = await refusal(costs_of(caller(role)).allocate(engineering))
        assert error.metadata == {"permission": "allocations.write"}

    async def test_other_tenant_sees_nothing(
        self, costs: AllocationApi, engineering: Department, other_tenant: tuple[EntitiesApi, AllocationApi]
    ) -> None:
        allocation, (_, theirs) = await costs.allocate(engineering), other_tenant
        assert (await refusal(theirs.get(allocation))).reason == "ALLOCATION_NOT_FOUND"
        assert (await refusal(theirs.reverse(allocation))).reason == "ALLOCATION_NOT_FOUND"
        assert (await refusal(theirs.allocate(engineering))).reason == "DEPARTMENT_NOT_FOUND"
        assert (await refusal(theirs.list_all(engineering))).reason == "DEPARTMENT_NOT_FOUND"

    async def test_confined_caller_allocates_within_the_scope(
        self, api: EntitiesApi, costs: AllocationApi, costs_of: Callable[[Caller], AllocationApi],
        caller: Callable[..., Caller], engineering: Department,
    ) -> None:  # fmt: skip
        sales = await api.create_department(engineering.entity_id, "SALES")
        qa = await api.create_department(engineering.entity_id, "QA", parent_id=engineering.id)
        conny = costs_of(caller("finance", subject="conny", department_scope=[engineering.id]))
        mine, below = await conny.allocate(engineering), await conny.allocate(qa)
        theirs = await costs.allocate(sales, source_ref="secret")
        assert (await refusal(conny.allocate(sales))).reason == "DEPARTMENT_NOT_FOUND"
        assert (await refusal(conny.get(theirs))).reason == "ALLOCATION_NOT_FOUND"
        assert (await refusal(conny.reverse(theirs))).reason == "ALLOCATION_NOT_FOUND"
        assert (await refusal(conny.list_all(sales))).reason == "DEPARTMENT_NOT_FOUND"
        assert {each.id for each in await conny.list_all(engineering, include_descendants=True)} == {mine.id, below.id}
        error = await refusal(conny.allocate(engineering, source_ref="secret"))
        assert error.reason == "ALLOCATION_SOURCE_TAKEN"
        assert error.metadata == {"source": "MANUAL", "source_ref": "secret"}  # without the entity
