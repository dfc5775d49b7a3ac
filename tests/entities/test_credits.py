"""Credits of a part of an allocation: amounts, references, what is left, reports, splits and concurrency."""

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import asyncpg
import pytest
from billing.entities.v1 import cost_service_pb2
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.events_pb2 import AllocationCredited, AllocationReversed
from grpc import StatusCode
from grpc.aio import AioRpcError

from kit import ids
from tests.entities.allocation_api import AllocationApi, amounts, line, money, money_text, total
from tests.entities.entities_api import EntitiesApi
from tests.entities.rules_api import RulesApi, even, terms
from tests.entities.rules_api import amounts as share_amounts
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents
from tests.harness.services import Entities

INVOICE: Final[dict[str, Any]] = {"source": Allocation.INVOICE, "source_ref": "INV-1"}
NOTHING: Final = Decimal(0), Decimal(0)


@pytest.fixture
async def swiss(api: EntitiesApi) -> Department:
    await api.set_rates("2026-03-01 USD/CHF 0.915")
    return await api.create_department(await api.create_entity("CH", currency_code="CHF"), "ENG")


@pytest.fixture
async def allocation(costs: AllocationApi, swiss: Department) -> Allocation:
    return await costs.allocate(
        swiss, "1.00 USD", allocation_date="2026-03-15", category="cloud", quantity="2.5", unit="GB", **INVOICE
    )


class TestCredit:
    async def test_credit_is_an_allocation_that_refers_to_the_credited_one(
        self, api: EntitiesApi, costs: AllocationApi, allocation: Allocation, swiss: Department
    ) -> None:
        await api.set_rates("2026-03-01 USD/CHF 0.7")  # has no effect: a credit has the rate of the allocation
        credit = await costs.credit(allocation, "0.40 USD", source_ref="CN-1", allocation_date="2026-04-01")
        expected = Allocation()
        expected.CopyFrom(allocation)
        expected.MergeFrom(
            Allocation(
                id=credit.id, amount=money("-0.40 USD"), entity_amount=money("-0.37 CHF"), source_ref="CN-1",
                description="Outage", allocation_date="2026-04-01", credit_of_id=allocation.id,
                create_time=credit.create_time,
            )
        )  # fmt: skip
        expected.quantity = expected.unit = ""
        assert credit == await costs.get(credit) == expected
        credited = await costs.get(allocation)
        assert (credited.credited_amount, credited.reversed_by_id) == (money("0.40 USD"), "")
        listed = {each.id: each for each in await costs.list_all(swiss)}
        assert listed == {credit.id: credit, credited.id: credited}

    async def test_credit_is_published(
        self, costs: AllocationApi, allocation: Allocation, published_events: PublishedEvents
    ) -> None:
        credit = await costs.credit(allocation, "0.40 USD", source_ref="CN-1", allocation_date="2026-04-01")
        assert await published_events.first(AllocationCredited) == AllocationCredited(
            allocation_id=credit.id,
            credited_allocation_id=allocation.id,
            entity_id=allocation.entity_id,
            department_id=allocation.department_id,
            amount=money("0.40 USD"),
            allocation_date="2026-04-01",
            source_ref="CN-1",
            reason="Outage",
        )

    async def test_credits_never_exceed_what_is_left(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department
    ) -> None:
        await costs.credit(allocation, "0.40 USD")
        error = await refusal(costs.credit(allocation, "0.61 USD"))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CREDIT_EXCEEDS_ALLOCATION")
        assert error.metadata == {
            "allocation_id": allocation.id, "requested": "0.61", "available": "0.60", "currency_code": "USD",
        }  # fmt: skip
        await costs.credit(allocation, "0.60 USD")
        assert (await refusal(costs.credit(allocation, "0.01 USD"))).metadata["available"] == "0.00"
        assert total(await costs.list_all(swiss)) == NOTHING

    @pytest.mark.parametrize("currency", ["CHF", "JPY", "KWD"])
    async def test_last_credit_leaves_nothing_in_either_currency(
        self, api: EntitiesApi, costs: AllocationApi, currency: str
    ) -> None:
        await api.set_rates("2026-03-01 USD/CHF 0.915", "2026-03-01 USD/JPY 150.5", "2026-03-01 USD/KWD 0.3075")
        department = await api.create_department(await api.create_entity("X", currency_code=currency), "ENG")
        allocation = await costs.allocate(department, "0.10 USD", allocation_date="2026-03-15")
        left = [Decimal(allocation.entity_amount.amount)]
        for _ in range(10):
            credit = await costs.credit(allocation, "0.01 USD")
            left.append(left[-1] + Decimal(credit.entity_amount.amount))
        assert left == sorted(left, reverse=True)
        assert left[-1] == 0
        assert total(await costs.list_all(department)) == NOTHING

    async def test_reversal_is_of_the_amount_that_was_not_credited(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department, published_events: PublishedEvents
    ) -> None:
        await costs.credit(allocation, "0.33 USD")
        await costs.credit(allocation, "0.33 USD")
        reversal = await costs.reverse(allocation)
        assert (reversal.amount, reversal.quantity) == (money("-0.34 USD"), "-2.5")
        assert total(await costs.list_all(swiss)) == NOTHING
        assert (await published_events.first(AllocationReversed)).amount == money("0.34 USD")
        for refused in (costs.credit(allocation, "0.01 USD"), costs.reverse(allocation)):
            error = await refusal(refused)
            assert (error.reason, error.metadata["reversal_id"]) == ("ALLOCATION_ALREADY_REVERSED", reversal.id)

    async def test_allocation_credited_in_full_cannot_be_reversed_and_keeps_its_document(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department
    ) -> None:
        await costs.credit(allocation, "1.00 USD")
        error = await refusal(costs.reverse(allocation))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ALLOCATION_FULLY_CREDITED")
        again = costs.allocate(
            swiss, "1.00 USD", allocation_date="2026-03-15", category="cloud", quantity="2.5", unit="GB", **INVOICE
        )
        assert (await refusal(again)).metadata["allocation_id"] == allocation.id

    async def test_credits_and_reversals_cannot_be_credited_or_reversed(
        self, costs: AllocationApi, allocation: Allocation
    ) -> None:
        credit = await costs.credit(allocation, "0.40 USD")
        for refused in (costs.credit(credit, "0.10 USD"), costs.reverse(credit)):
            assert (await refusal(refused)).reason == "ALLOCATION_IS_CREDIT"
        error = await refusal(costs.credit(await costs.reverse(allocation), "0.10 USD"))
        assert error.reason == "ALLOCATION_IS_REVERSAL"

    async def test_amount_currency_date_and_reason_are_checked(
        self, costs: AllocationApi, allocation: Allocation
    ) -> None:
        assert (await refusal(costs.credit(allocation, "0.10 CHF"))).rules == {
            "amount.currency_code": "currency.of_allocation"
        }
        for amount in ("0.00 USD", "-0.10 USD", "0.001 USD"):
            assert (await refusal(costs.credit(allocation, amount))).reason == "INVALID_FIELDS"
        early = await refusal(costs.credit(allocation, "0.10 USD", allocation_date="2026-03-14"))
        assert early.rules == {"allocation_date": "allocation_date.order"}
        late = await refusal(costs.credit(allocation, "0.10 USD", allocation_date="2029-01-01"))
        assert late.reason == "ALLOCATION_DATE_TOO_FAR"
        assert set((await refusal(costs.credit(allocation, "0.10 USD", reason=""))).fields) == {"reason"}

    async def test_inactive_entity_does_not_prevent_credits(
        self, api: EntitiesApi, costs: AllocationApi, allocation: Allocation
    ) -> None:
        await api.deactivate(allocation.entity_id)
        assert (await costs.credit(allocation, "0.10 USD")).credit_of_id == allocation.id

    async def test_report_contains_the_credit(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department, entities: Entities
    ) -> None:
        await costs.credit(allocation, "0.40 USD")
        request = cost_service_pb2.GetDepartmentCostsRequest(
            id=swiss.id, start_date="2026-03-01", end_date="2026-04-01"
        )
        report = (await costs.caller.call(entities.costs.GetDepartmentCosts, request)).total
        assert (report.cost, list(report.originals)) == (money("0.55 CHF"), [money("0.60 USD")])
        assert (report.allocation_count, report.reversal_count) == (1, 1)


class TestReference:
    async def test_repeated_credit_note_is_booked_once(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department
    ) -> None:
        first = await costs.credit(allocation, "0.40 USD", source_ref="CN-1")
        assert await costs.credit(allocation, "0.40 USD", source_ref="CN-1") == first
        error = await refusal(costs.credit(allocation, "0.30 USD", source_ref="CN-1"))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "ALLOCATION_SOURCE_TAKEN")
        assert (error.metadata["allocation_id"], error.metadata["differs"]) == (first.id, "amount")
        assert len(await costs.list_all(swiss)) == 2

    async def test_cost_that_is_credited_in_full_is_refused_with_its_credits_when_it_is_sent_again(
        self, costs: AllocationApi, swiss: Department
    ) -> None:
        fields: dict[str, Any] = {"source": Allocation.INVOICE, "source_ref": "r1", "allocation_date": "2026-03-15"}
        cost = await costs.allocate(swiss, "100.00 CHF", **fields)
        first = await costs.credit(cost, "99.99 CHF")
        assert (await costs.allocate(swiss, "100.00 CHF", **fields)).id == cost.id
        second = await costs.credit(cost, "0.01 CHF")
        for amount in ("100.00 CHF", "50.00 CHF"):
            error = await refusal(costs.allocate(swiss, amount, **fields))
            assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "ALLOCATION_SOURCE_TAKEN")
            assert (error.metadata["allocation_id"], error.metadata["credit_ids"]) == (
                cost.id, f"{first.id}, {second.id}",
            )  # fmt: skip
            assert "to allocate it again, use another source_ref" in error.message
        batch = await costs.batch(line(swiss, "100.00 CHF", **fields))
        assert batch.results[0].refusal.reason == "ALLOCATION_SOURCE_TAKEN"
        assert await costs.allocate(swiss, "100.00 CHF", **{**fields, "source_ref": "r1-again"})

    async def test_reference_of_the_invoice_or_of_another_credit_is_refused(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department
    ) -> None:
        other = await costs.allocate(swiss, "5.00 USD", allocation_date="2026-03-15", source=Allocation.INVOICE)
        first = await costs.credit(allocation, "0.40 USD", source_ref="CN-1")
        assert (await refusal(costs.credit(allocation, "0.40 USD", source_ref="INV-1"))).reason == (
            "ALLOCATION_SOURCE_TAKEN"
        )
        error = await refusal(costs.credit(other, "0.40 USD", source_ref="CN-1"))
        assert (error.metadata["allocation_id"], error.metadata["differs"]) == (first.id, "credit_of_id")
        as_cost = costs.allocate(swiss, "0.40 USD", source=Allocation.INVOICE, source_ref="CN-1")
        assert (await refusal(as_cost)).reason == "ALLOCATION_SOURCE_TAKEN"

    async def test_invoice_and_its_credit_note_can_be_booked_again_after_the_reversal(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department
    ) -> None:
        await costs.credit(allocation, "0.40 USD", source_ref="CN-1")
        await costs.reverse(allocation)
        again = await costs.allocate(swiss, "1.00 USD", allocation_date="2026-03-15", **INVOICE)
        credit = await costs.credit(again, "0.25 USD", source_ref="CN-1")
        assert await costs.credit(again, "0.25 USD", source_ref="CN-1") == credit
        assert (await costs.get(again)).credited_amount == money("0.25 USD")
        assert total(await costs.list_all(swiss)) == (Decimal("0.75"), Decimal("0.69"))

    async def test_repeated_key_returns_the_same_credit(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department
    ) -> None:
        first = await costs.credit(allocation, "0.40 USD", request_id="k")
        assert await costs.credit(allocation, "0.40 USD", request_id="k") == first
        error = await refusal(costs.credit(allocation, "0.41 USD", request_id="k"))
        assert error.reason == "IDEMPOTENCY_MISMATCH"
        assert len(await costs.list_all(swiss)) == 2


class TestConcurrency:
    async def test_concurrent_credits_never_exceed_the_amount(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department
    ) -> None:
        calls = [costs.credit(allocation, "0.30 USD", source_ref=f"CN-{n}") for n in range(8)]
        responses = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(each, Allocation) for each in responses) == 3
        assert sum(isinstance(each, AioRpcError) for each in responses) == 5
        assert total(await costs.list_all(swiss))[0] == Decimal("0.10")
        assert (await costs.credit(allocation, "0.10 USD")).amount == money("-0.10 USD")
        assert total(await costs.list_all(swiss)) == NOTHING

    async def test_concurrent_credits_with_one_reference_make_one(
        self, costs: AllocationApi, allocation: Allocation, swiss: Department
    ) -> None:
        calls = [costs.credit(allocation, "0.10 USD", source_ref="CN-1") for _ in range(8)]
        assert len({each.id for each in await asyncio.gather(*calls)}) == 1
        assert len(await costs.list_all(swiss)) == 2

    async def test_credits_and_reversals_at_once_leave_nothing(self, costs: AllocationApi, swiss: Department) -> None:
        for _ in range(5):
            allocation = await costs.allocate(swiss, "1.00 USD", allocation_date="2026-03-15")
            calls = [costs.credit(allocation, "0.15 USD") for _ in range(4)]
            await asyncio.gather(*calls, costs.reverse(allocation), return_exceptions=True)
            assert total(await costs.list_all(swiss)) == NOTHING


class TestSplit:
    @pytest.fixture
    async def targets(self, api: EntitiesApi, swiss: Department) -> Sequence[Department]:
        return [await api.create_department(swiss.entity_id, code) for code in ("A", "B", "C")]

    async def test_split_divides_the_amount_that_was_not_credited_and_its_reversal_restores_it(
        self, costs: AllocationApi, rules: RulesApi, allocation: Allocation, swiss: Department,
        targets: Sequence[Department],
    ) -> None:  # fmt: skip
        await costs.credit(allocation, "0.10 USD", source_ref="CN-1")
        split = await rules.split(allocation_id=allocation.id, terms=terms(*even(*targets)))
        assert share_amounts(split) == ["0.30 USD", "0.30 USD", "0.30 USD"]
        shares = await rules.allocations_of_all(*targets)
        assert total(shares) == (Decimal("0.90"), Decimal("0.83"))
        await costs.credit(shares[0], "0.12 USD")
        restored_id = (await rules.reverse_split(split)).reversal.restored_allocation_id
        assert money_text((await costs.get(restored_id)).amount) == "0.78 USD"
        assert total(await rules.allocations_of_all(*targets)) == NOTHING
        posted = total(await rules.allocations_of_all(swiss, *targets))
        assert posted[0] == Decimal("0.78")
        assert money_text((await costs.get(restored_id)).entity_amount) == f"{posted[1]} CHF"

    async def test_credits_and_a_split_at_once_keep_the_sum(
        self, costs: AllocationApi, rules: RulesApi, swiss: Department, targets: Sequence[Department]
    ) -> None:
        """Each credit counts once, before the split; credits after the split are refused."""
        for _ in range(3):
            before = total(await rules.allocations_of_all(swiss, *targets))[0]
            allocation = await costs.allocate(swiss, "1.00 USD", allocation_date="2026-03-15")
            calls = [costs.credit(allocation, "0.15 USD") for _ in range(4)]
            split = rules.split(allocation_id=allocation.id, terms=terms(*even(*targets)))
            *credits_made, split_made = await asyncio.gather(*calls, split, return_exceptions=True)
            made = sum(isinstance(each, Allocation) for each in credits_made)
            posted = total(await rules.allocations_of_all(swiss, *targets))[0]
            assert posted - before == 1 - made * Decimal("0.15")
            assert Decimal(split_made.amount.amount) == posted - before  # type: ignore[union-attr]

    async def test_credit_note_of_a_split_allocation_is_refused(
        self, costs: AllocationApi, rules: RulesApi, allocation: Allocation, targets: Sequence[Department]
    ) -> None:
        """Its shares are credited instead."""
        split = await rules.split(allocation_id=allocation.id, terms=terms(*even(*targets)))
        error = await refusal(costs.credit(allocation, "0.10 USD", source_ref="CN-1"))
        assert error.reason == "ALLOCATION_ALREADY_REVERSED"
        credit = await costs.credit(split.shares[0].allocation_id, "0.10 USD", source_ref="CN-1")
        assert (credit.source, amounts([credit])) == (Allocation.SPLIT, ["-0.10 USD"])

    async def test_credit_note_counts_once_also_after_the_reversal_of_the_split(
        self, costs: AllocationApi, rules: RulesApi, allocation: Allocation, targets: Sequence[Department]
    ) -> None:
        credit = await costs.credit(allocation, "0.10 USD", source_ref="CN-1")
        allocation_id = allocation.id
        for _ in range(2):
            split = await rules.split(allocation_id=allocation_id, terms=terms(*even(*targets)))
            allocation_id = (await rules.reverse_split(split)).reversal.restored_allocation_id
            error = await refusal(costs.credit(allocation_id, "0.10 USD", source_ref="CN-1"))
            assert (error.reason, error.metadata["allocation_id"]) == ("ALLOCATION_SOURCE_TAKEN", credit.id)
        await costs.reverse(await costs.get(allocation_id))
        again = await costs.allocate(allocation.department_id, "1.00 USD", allocation_date="2026-03-15", **INVOICE)
        assert await costs.credit(again, "0.10 USD", source_ref="CN-1")

    async def test_share_that_was_credited_in_full_is_allocated_again_by_the_next_split(
        self, costs: AllocationApi, rules: RulesApi, targets: Sequence[Department]
    ) -> None:
        fields = {"terms": terms(*even(*targets)), "source_ref": "bill-1"}
        split = await rules.split("9.00 CHF", **fields)
        await costs.credit(split.shares[0].allocation_id, "3.00 CHF")
        await rules.reverse_split(split)
        again = await rules.split("9.00 CHF", **fields)
        assert {each.allocation_id for each in again.shares}.isdisjoint(each.allocation_id for each in split.shares)
        assert total(await rules.allocations_of_all(*targets)) == (Decimal("9.00"), Decimal("9.00"))


class TestAccess:
    async def test_scope_tenant_and_permission_are_checked(
        self, costs: AllocationApi, allocation: Allocation, entities: Entities, caller: Callable[..., Caller]
    ) -> None:
        elsewhere = ids.ENTITY.format(ids.new())
        for other in (caller("finance", entity_scope=[elsewhere]), caller("billing_admin", tenant=ids.new())):
            error = await refusal(AllocationApi(other, entities).credit(allocation, "0.10 USD"))
            assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "ALLOCATION_NOT_FOUND")
        viewer = AllocationApi(caller("auditor"), entities)
        assert (await refusal(viewer.credit(allocation, "0.10 USD"))).metadata == {"permission": "allocations.write"}

    async def test_credit_cannot_be_changed(
        self, costs: AllocationApi, allocation: Allocation, admin: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        await costs.credit(allocation, "0.10 USD")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await admin.execute(
                "update entities.cost_allocations set amount = amount where tenant_id = $1", costs.caller.tenant_id
            )
