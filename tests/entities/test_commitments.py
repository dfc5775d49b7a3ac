"""Minimum commitments: which costs count for which contract, and with which amounts."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.contract_pb2 import Contract
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from kit import ids
from services.entities import domain
from services.entities.domain.proration import DateRange
from tests.entities.allocation_api import AllocationApi, line
from tests.entities.contract_api import ContractApi, day, money
from tests.entities.rules_api import RulesApi, even, terms
from tests.entities.usage_records import UsageTracking, usage
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities

DAYS = st.dates(date(2026, 1, 1), date(2026, 1, 20))
RANGES = st.builds(DateRange, DAYS, DAYS)


class TestExclusiveDays:
    @given(RANGES, st.lists(RANGES, max_size=4))
    def test_are_exactly_the_days_of_no_other_range(self, days: DateRange, others: list[DateRange]) -> None:
        def list_days(*ranges: DateRange) -> list[date]:
            return [each.start + timedelta(days=offset) for each in ranges for offset in range(each.days)]

        parts = domain.commitments.exclusive_days(days, others)
        excluded = set(list_days(*others))
        assert list_days(*parts) == [each for each in list_days(days) if each not in excluded]


@pytest.fixture
def api(entities: Entities, finance: Caller) -> RulesApi:
    return RulesApi(finance, entities)


@pytest.fixture
async def engineering(api: RulesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "ENG")


@pytest.fixture
async def sales(api: RulesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "SALES")


@pytest.fixture
def commit(contracts: ContractApi, acme: Entity) -> Callable[..., Any]:
    """Create a contract of ACME with a commitment, in force for 200 days of which 100 are over."""

    async def create(entity: Entity = acme, **fields: Any) -> Contract:
        defaults = {"start_date": day(-100), "end_date": day(100), "minimum_commitment": money("1000")}
        return await contracts.create_active(entity, **{**defaults, **fields})

    return create


@pytest.fixture
def used(contracts: ContractApi) -> Callable[..., Any]:
    async def check(*checked: Contract) -> list[str]:
        """The `used` of each contract."""
        return [(await contracts.check_renewal(each)).used.amount for each in checked]

    return check


async def use(costs: AllocationApi, department: Department, amount: str, **fields: Any) -> Allocation:
    return await costs.allocate(department, amount, source=Allocation.USAGE, **fields)


class TestAmounts:
    async def test_used_is_the_sum_of_the_booked_amounts(
        self, api: RulesApi, costs: AllocationApi, engineering: Department, commit: Any, used: Any
    ) -> None:
        contract = await commit(minimum_commitment=money("100000"))
        await api.set_rates(f"{day()} USD/EUR 0.915")
        for amount in ("95329.12 EUR", *["1.00 USD"] * 4):  # 0.92 EUR each; together 3.66 EUR at the rate
            await use(costs, engineering, amount)
        assert await used(contract) == ["95332.80"]
        await api.set_rates(f"{day()} USD/EUR 0.5")
        assert await used(contract) == ["95332.80"]

    async def test_amounts_in_the_currency_of_the_contract_are_exact(
        self, api: RulesApi, costs: AllocationApi, engineering: Department, commit: Any, used: Any
    ) -> None:
        contract = await commit(minimum_commitment=money("1000", "USD"), total_value=money("1200", "USD"))
        await api.set_rates(f"{day()} USD/EUR 0.9", f"{day()} GBP/EUR 1.2")
        await use(costs, engineering, "0.33 USD")
        await use(costs, engineering, "75.00 GBP")  # booked as 90.00 EUR
        assert await used(contract) == ["100.33"]

    async def test_reversed_usage_does_not_count(
        self, costs: AllocationApi, engineering: Department, commit: Any, used: Any
    ) -> None:
        contract, other = await commit(), await commit()
        linked = await use(costs, engineering, "10.00 EUR", contract_id=contract.id)
        reversal = await costs.reverse(linked, allocation_date=day(200))
        assert (linked.contract_id, reversal.contract_id) == (contract.id, contract.id)
        assert await used(contract, other) == ["0.00", "0.00"]

    async def test_partial_credit_lowers_what_was_used(
        self, costs: AllocationApi, engineering: Department, commit: Any, used: Any
    ) -> None:
        contract = await commit()
        unlinked = await use(costs, engineering, "10.00 EUR")
        linked = await use(costs, engineering, "20.00 EUR", contract_id=contract.id)
        await costs.credit(unlinked, "1.00 EUR")
        assert (await costs.credit(linked, "2.50 EUR")).contract_id == contract.id
        assert await used(contract) == ["26.50"]

    async def test_corrections_of_a_later_day_count_for_the_commitment_of_the_usage(
        self, costs: AllocationApi, engineering: Department, commit: Any, used: Any
    ) -> None:
        old, new = await commit(end_date=day(10)), await commit(start_date=day(10), end_date=day(300))
        allocation = await use(costs, engineering, "10.00 EUR", allocation_date=day(5))
        await costs.credit(allocation, "4.00 EUR", allocation_date=day(11))
        assert await used(old, new) == ["6.00", "0.00"]
        await costs.reverse(allocation, allocation_date=day(12))
        assert await used(old, new) == ["0.00", "0.00"]


class TestLinks:
    async def test_unlinked_usage_counts_for_the_only_commitment(
        self,
        costs: AllocationApi,
        contracts: ContractApi,
        acme: Entity,
        engineering: Department,
        commit: Any,
        used: Any,
    ) -> None:
        contract = await commit()
        await contracts.create_active(acme, start_date=day(-100))  # without a commitment
        await contracts.create(acme, start_date=day(-100), minimum_commitment=money("1"))  # a draft
        await use(costs, engineering, "10.00 EUR")
        await costs.allocate(engineering, "77.00 EUR")  # no usage
        assert await used(contract) == ["10.00"]

    async def test_with_several_commitments_only_linked_usage_counts(
        self, costs: AllocationApi, engineering: Department, commit: Any, used: Any
    ) -> None:
        cloud, support = await commit(), await commit()
        await use(costs, engineering, "1.00 EUR")
        await use(costs, engineering, "20.00 EUR", contract_id=cloud.id)
        await costs.allocate(engineering, "300.00 EUR", contract_id=support.id, source=Allocation.INVOICE)
        assert await used(cloud, support) == ["20.00", "300.00"]

    async def test_commitments_are_compared_day_by_day(
        self, costs: AllocationApi, contracts: ContractApi, engineering: Department, commit: Any, used: Any
    ) -> None:
        old = await commit(end_date=day(10))
        new, other = (
            await commit(start_date=day(-5), end_date=day(300)),
            await commit(start_date=day(50), end_date=day(250)),
        )
        for on, amount in ((-6, "1"), (-5, "2"), (9, "4"), (10, "8"), (49, "16"), (50, "32"), (99, "64")):
            await use(costs, engineering, f"{amount}.00 EUR", allocation_date=day(on))
        assert await used(old, new, other) == ["1.00", "24.00", "0.00"]
        await contracts.terminate(other, for_cause=True, effective_date=day(60))
        assert await used(old, new, other) == ["1.00", "88.00", "0.00"]

    async def test_usage_of_other_entities_does_not_count(
        self, api: RulesApi, costs: AllocationApi, commit: Any, used: Any
    ) -> None:
        contract = await commit()
        other = await api.create_department(await api.create_entity("OTHER"), "ENG")
        await use(costs, other, "10.00 EUR")
        assert await used(contract) == ["0.00"]

    async def test_usage_record_names_its_contract(
        self, nats: Client, tenant: UUID, admin: "asyncpg.Pool[asyncpg.Record]", engineering: Department,
        commit: Any, used: Any,
    ) -> None:  # fmt: skip
        tracking = UsageTracking(nats, tenant, admin)
        cloud, support = await commit(), await commit()
        record = usage(engineering, "12.34 EUR", contract_id=cloud.id)
        await tracking.publish(record)
        await tracking.wait_until_allocated(record)
        assert await used(cloud, support) == ["12.34", "0.00"]


class TestSplits:
    @pytest.mark.parametrize("linked", [True, False])
    async def test_shares_of_usage_count_for_the_contract(
        self,
        api: RulesApi,
        costs: AllocationApi,
        engineering: Department,
        sales: Department,
        commit: Any,
        used: Any,
        linked: bool,  # noqa: FBT001
    ) -> None:
        contract = await commit()
        others = [await commit()] if linked else []
        tokyo = await api.create_department(
            await api.create_entity("JP", currency_code="JPY", country_code="JP"), "TOKYO"
        )
        await api.set_rates(f"{day()} EUR/JPY 160")
        whole = await use(costs, engineering, "100.00 EUR", contract_id=contract.id if linked else "")
        split = await api.split(allocation_id=whole.id, terms=terms(*even(sales, tokyo)))
        assert await used(contract, *others) == ["100.00", *["0.00"] * len(others)]
        await api.reverse_split(split)
        assert await used(contract, *others) == ["100.00", *["0.00"] * len(others)]

    async def test_usage_restored_on_a_later_day_counts_for_the_commitment_as_before(
        self, api: RulesApi, costs: AllocationApi, engineering: Department, sales: Department, commit: Any, used: Any
    ) -> None:
        old, new = await commit(end_date=day(10)), await commit(start_date=day(10), end_date=day(300))
        whole = await use(costs, engineering, "10.00 EUR", allocation_date=day(5))
        split = await api.split(allocation_id=whole.id, terms=terms(*even(sales)))
        await api.reverse_split(split, allocation_date=day(11))
        assert await used(old, new) == ["10.00", "0.00"]


class TestRefusals:
    async def test_contract_must_belong_to_the_entity(
        self, api: RulesApi, costs: AllocationApi, engineering: Department, commit: Any
    ) -> None:
        foreign = await commit(await api.create_entity("OTHER"))
        error = await refusal(costs.allocate(engineering, contract_id=foreign.id))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_OF_OTHER_ENTITY")
        assert error.metadata == {"contract_id": foreign.id, "entity_id": engineering.entity_id}

    async def test_contract_must_exist(self, costs: AllocationApi, engineering: Department) -> None:
        error = await refusal(costs.allocate(engineering, contract_id=ids.CONTRACT.format(ids.new())))
        assert error.reason == "CONTRACT_NOT_FOUND"

    async def test_contract_must_be_in_force_on_the_date(
        self, costs: AllocationApi, contracts: ContractApi, acme: Entity, engineering: Department, commit: Any
    ) -> None:
        draft, active = (
            await contracts.create(acme),
            await commit(start_date=day(-1), end_date=day(2), renewal_notice_days=1),
        )
        cases = ((draft, 0), (active, -2), (active, 2))
        lines = [line(engineering, contract_id=each.id, allocation_date=day(on)) for each, on in cases]
        accepted = [line(engineering, contract_id=active.id, allocation_date=day(on)) for on in (-1, 1)]
        results = (await costs.batch(*lines, *accepted)).results
        assert [each.refusal.reason for each in results] == [*["CONTRACT_NOT_IN_FORCE"] * 3, "", ""]
        assert dict(results[2].refusal.metadata) == {
            "contract_id": active.id, "allocation_date": day(2), "start_date": day(-1), "end_date": day(2),
        }  # fmt: skip

    async def test_same_document_under_another_contract_is_refused(
        self, costs: AllocationApi, engineering: Department, commit: Any
    ) -> None:
        cloud, support = await commit(), await commit()
        await use(costs, engineering, "1.00 EUR", source_ref="r-1", contract_id=cloud.id)
        error = await refusal(use(costs, engineering, "1.00 EUR", source_ref="r-1", contract_id=support.id))
        assert (error.reason, error.metadata["differs"]) == ("ALLOCATION_SOURCE_TAKEN", "contract_id")
