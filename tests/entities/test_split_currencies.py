"""Shares of a split in the currencies of their entities: they sum to the amount that the cost was booked with."""

from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, CostSplit
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity

from tests.entities.allocation_api import money, money_text
from tests.entities.rules_api import RulesApi, amounts, even, target, terms
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities

Departments = Sequence[Department]


@pytest.fixture
def api(entities: Entities, finance: Caller) -> RulesApi:
    return RulesApi(finance, entities)


@pytest.fixture
def department_of(api: RulesApi) -> Callable[[str, str], object]:
    """Create a department of a new entity with this currency."""

    async def create(code: str, currency: str) -> Department:
        return await api.create_department(await api.create_entity(code, currency_code=currency), code)

    return create


def booked(split: CostSplit) -> list[str]:
    """The amount of each share in the currency of its entity."""
    return [money_text(share.entity_amount) for share in split.shares]


def total(allocations: Sequence[Allocation]) -> Decimal:
    """The sum in the currency of the entities."""
    return sum((Decimal(each.entity_amount.amount) for each in allocations), Decimal(0))


class TestSplitOfAllocation:
    async def test_shares_sum_to_what_the_allocation_was_booked_with(
        self, api: RulesApi, it: Department, targets: Departments
    ) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915")
        whole = await api.allocate(it, "1.00 USD")
        assert whole.entity_amount == money("0.92 EUR")
        split = await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        assert amounts(split) == ["0.34 USD", "0.33 USD", "0.33 USD"]
        assert booked(split) == ["0.31 EUR", "0.31 EUR", "0.30 EUR"]
        shares = await api.allocations_of_all(*targets)
        assert [money_text(share.entity_amount) for share in shares] == booked(split)
        assert {(share.rate, share.rate_date) for share in shares} == {("0.915", "2026-03-01")}

    async def test_rounding_of_many_shares_does_not_add_up(self, api: RulesApi, acme: Entity, it: Department) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915")
        whole = await api.allocate(it, "40.00 USD")
        targets = [await api.create_department(acme, f"D{number}") for number in range(40)]
        split = await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        assert set(amounts(split)) == {"1.00 USD"}
        assert sorted(booked(split)) == ["0.91 EUR"] * 20 + ["0.92 EUR"] * 20
        assert total(await api.allocations_of_all(*targets)) == Decimal("36.60")

    async def test_later_correction_of_the_rate_has_no_effect(
        self, api: RulesApi, it: Department, targets: Departments
    ) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915")
        whole = await api.allocate(it, "1.00 USD")
        await api.set_rates("2026-03-01 USD/EUR 0.7", "2026-03-10 USD/EUR 0.6")
        await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        shares = await api.allocations_of_all(*targets)
        assert total(shares) == Decimal("0.92")
        assert {(share.rate, share.rate_date) for share in shares} == {("0.915", "2026-03-01")}

    async def test_all_entities_with_the_currency_of_the_allocation_share_its_booked_amount(
        self, api: RulesApi, it: Department, department_of: Callable[..., object]
    ) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915")
        whole = await api.allocate(it, "1.00 USD")
        targets: Departments = [await department_of(f"E{number}", "EUR") for number in range(3)]  # type: ignore[misc]
        await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        assert total(await api.allocations_of_all(*targets)) == Decimal("0.92")

    async def test_share_in_the_currency_of_the_cost_is_not_converted(
        self, api: RulesApi, it: Department, department_of: Callable[..., object]
    ) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915", "2026-03-01 USD/JPY 150.5", "2026-03-01 USD/KWD 0.3075")
        whole = await api.allocate(it, "1.00 USD")
        await api.set_rates("2026-03-01 USD/EUR 0.7")
        currencies = ("USD", "EUR", "JPY", "KWD")
        targets: Departments = [await department_of(each, each) for each in currencies]  # type: ignore[misc]
        split = await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        assert booked(split) == ["0.25 USD", "0.23 EUR", "38 JPY", "0.077 KWD"]
        shares = await api.allocations_of_all(*targets)
        assert [(share.rate, share.rate_date) for share in shares] == [
            ("", ""), ("0.915", "2026-03-01"), ("150.5", "2026-03-01"), ("0.3075", "2026-03-01"),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("currency", "rate", "expected"),
        [("JPY", "150.5", ["51 JPY", "50 JPY", "49 JPY"]), ("KWD", "0.3075", ["0.105 KWD", "0.102 KWD", "0.101 KWD"])],
    )
    async def test_shares_in_a_currency_with_other_decimals_sum_to_the_booked_amount(
        self, api: RulesApi, currency: str, rate: str, expected: list[str]
    ) -> None:
        await api.set_rates(f"2026-03-01 USD/{currency} {rate}")
        entity = await api.create_entity("FAR", currency_code=currency)
        source, *targets = [await api.create_department(entity, code) for code in ("A", "B", "C", "D")]
        whole = await api.allocate(source, "1.00 USD")
        split = await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        assert booked(split) == expected
        assert total(await api.allocations_of_all(*targets)) == Decimal(whole.entity_amount.amount)

    async def test_share_of_zero_gets_nothing_in_any_currency(
        self, api: RulesApi, it: Department, targets: Departments
    ) -> None:
        await api.set_rates("2026-03-01 JPY/EUR 0.0062")
        whole = await api.allocate(it, "1 JPY")
        split = await api.split(allocation_id=whole.id, terms=terms(*even(*targets)))
        assert (amounts(split), booked(split)) == (["1 JPY", "0 JPY", "0 JPY"], ["0.01 EUR", "0.00 EUR", "0.00 EUR"])
        [share] = await api.allocations_of_all(*targets)
        assert share.entity_amount == money("0.01 EUR")


class TestSplitOfAmount:
    async def test_shares_sum_to_the_converted_amount(self, api: RulesApi, targets: Departments) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915")
        split = await api.split("1.00 USD", terms=terms(*even(*targets)))
        assert booked(split) == ["0.31 EUR", "0.31 EUR", "0.30 EUR"]

    async def test_shares_by_percentage_follow_the_original_amounts(self, api: RulesApi, targets: Departments) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915")
        parts = [target(each, percent=part) for each, part in zip(targets, (5000, 3000, 2000), strict=True)]
        split = await api.split("9.99 USD", terms=terms(*parts, rule_type=AllocationRule.FIXED_PERCENT))
        assert amounts(split) == ["4.99 USD", "3.00 USD", "2.00 USD"]
        assert booked(split) == ["4.57 EUR", "2.74 EUR", "1.83 EUR"]  # of 9.14

    async def test_share_of_zero_needs_no_rate(
        self, api: RulesApi, it: Department, department_of: Callable[..., object]
    ) -> None:
        far: Department = await department_of("FAR", "PEN")  # type: ignore[misc]
        parts = terms(
            target(it, weight="1"), target(far, weight="0"), rule_type=AllocationRule.PROPORTIONAL,
            basis=AllocationRule.GIVEN,
        )  # fmt: skip
        assert booked(await api.split("10.00 EUR", terms=parts)) == ["10.00 EUR", "0.00 PEN"]

    async def test_preview_shows_the_booked_amounts(self, api: RulesApi, targets: Departments) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.915")
        preview = await api.split("1.00 USD", terms=terms(*even(*targets)), validate_only=True)
        assert booked(preview) == ["0.31 EUR", "0.31 EUR", "0.30 EUR"]
        split = await api.split("1.00 USD", terms=terms(*even(*targets)))
        assert booked(split) == booked(preview)
        [listed] = await api.list_splits()
        assert listed == split

    async def test_amount_is_split_although_the_whole_is_too_large_in_the_currency_of_one_entity(
        self, api: RulesApi, it: Department, department_of: Callable[..., object]
    ) -> None:
        await api.set_rates("2026-03-01 EUR/IRR 50000")
        far: Department = await department_of("IR", "IRR")  # type: ignore[misc]
        parts = terms(
            target(it, percent=9900), target(far, percent=100), rule_type=AllocationRule.FIXED_PERCENT
        )  # fmt: skip
        assert booked(await api.split("900000000.00 EUR", terms=parts)) == ["891000000.00 EUR", "450000000000.00 IRR"]
        error = await refusal(api.split("90000000000.00 EUR", terms=parts))
        assert (error.reason, error.metadata["to_currency_code"]) == ("AMOUNT_TOO_LARGE", "IRR")
        assert error.metadata["rate_date"] == "2026-03-01"
