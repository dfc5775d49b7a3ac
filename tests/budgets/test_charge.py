"""Charges: the whole chain or none, once per key, and never beyond the limit."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import grpc
import pytest
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Availability, Charge
from billing.type.v1.money_pb2 import Money
from google.protobuf.timestamp_pb2 import Timestamp

from tests.budgets.budgets_api import BudgetsApi, eur
from tests.harness.callers import Caller, refusal


class TestCharge:
    async def test_a_charge_counts_against_the_budget_and_all_above(self, api: BudgetsApi) -> None:
        group = await api.open("10000", name="Group")
        company = await api.open("5000", name="Company", parent_id=group.id)
        team = await api.open("1000", name="Team", parent_id=company.id)
        charge = await api.charge(team, "250.50", description="servers", reference="PO-1")
        assert [(b.name, b.available_before.amount, b.available_after.amount) for b in charge.chain] == [
            ("Team", "1000.00", "749.50"),
            ("Company", "5000.00", "4749.50"),
            ("Group", "10000.00", "9749.50"),
        ]
        assert charge.verdict == Charge.ACCEPTED
        assert (charge.actor, charge.description, charge.reference) == ("alice", "servers", "PO-1")
        assert [(await api.get(budget)).spent.amount for budget in (team, company, group)] == ["250.50"] * 3

    async def test_a_full_ancestor_refuses_and_nothing_changes(self, api: BudgetsApi) -> None:
        group = await api.open("100", name="Group")
        team = await api.open("1000", name="Team", parent_id=group.id)
        refused = await refusal(api.charge(team, "100.01"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BUDGET_EXCEEDED")
        assert refused.metadata == {
            "budget_id": group.id,
            "currency_code": "EUR",
            "requested": "100.01",
            "available": "100.00",
            "short": "0.01",
            "amount": "100.00",
        }
        assert [(await api.get(budget)).spent.amount for budget in (team, group)] == ["0.00", "0.00"]

    async def test_a_budget_with_policy_warn_accepts_an_overspend(self, api: BudgetsApi) -> None:
        budget = await api.open("100", overspend_policy=Budget.WARN)
        charge = await api.charge(budget, "150")
        assert charge.verdict == Charge.ACCEPTED_OVERSPENT
        assert charge.chain[0].overspent
        assert (await api.get(budget)).available.amount == "-50.00"

    async def test_tolerance_and_approval_policies_limit_an_overspend(self, api: BudgetsApi) -> None:
        tolerant = await api.open("100", overspend_policy=Budget.ALLOW_WITHIN_TOLERANCE, tolerance_bp=500)
        assert (await api.charge(tolerant, "105")).verdict == Charge.ACCEPTED_OVERSPENT
        assert (await refusal(api.charge(tolerant, "0.01"))).reason == "BUDGET_EXCEEDED"
        assert (await api.update(tolerant, tolerance_bp=499)).tolerance_bp == 499
        assert (await api.update(tolerant, tolerance_bp=600)).tolerance_bp == 600
        approval = await api.open("100", overspend_policy=Budget.REQUIRE_APPROVAL)
        refused = await refusal(api.charge(approval, "100.01"))
        assert (refused.reason, refused.metadata["short"]) == ("APPROVAL_REQUIRED", "0.01")
        assert (await api.get(approval)).spent.amount == "0.00"

    async def test_an_overspent_budget_can_be_raised_but_not_lowered(self, api: BudgetsApi) -> None:
        budget = await api.open("100", overspend_policy=Budget.WARN)
        await api.charge(budget, "150")
        assert (await api.update(budget, amount=eur("120"))).available == eur("-30.00")
        assert (await refusal(api.update(budget, amount=eur("110")))).reason == "AMOUNT_BELOW_SPENT"

    async def test_a_tiny_budget_with_policy_warn_accepts_a_huge_charge(self, api: BudgetsApi) -> None:
        budget = await api.open("0.01", overspend_policy=Budget.WARN)
        charge = await api.charge(budget, "9999999999999.99")
        assert charge.chain[0].utilisation_bp == 2**31 - 1  # the largest int32
        assert (await api.get(budget)).spent.amount == "9999999999999.99"

    async def test_charges_do_not_change_the_etag(self, api: BudgetsApi) -> None:
        budget = await api.open()
        await api.charge(budget, "1")
        charged = await api.get(budget)
        assert (charged.etag, charged.update_time) == (budget.etag, budget.update_time)

    async def test_only_an_active_budget_is_charged(self, api: BudgetsApi) -> None:
        draft = await api.open(draft=True)
        refused = await refusal(api.charge(draft, "1"))
        assert refused.reason == "BUDGET_STATE"
        assert (refused.metadata["state"], refused.metadata["allowed"]) == ("DRAFT", "ACTIVE, CLOSING")

    async def test_a_closed_ancestor_refuses(self, api: BudgetsApi) -> None:
        group = await api.open()
        team = await api.open(parent_id=group.id)
        await api.who.call(api.stubs.budgets.CloseBudget, pb.CloseBudgetRequest(id=group.id))
        assert (await refusal(api.charge(team, "1"))).metadata["budget_id"] == group.id

    async def test_a_charge_outside_the_period_is_refused(self, api: BudgetsApi) -> None:
        budget = await api.open()
        long_ago = Timestamp()
        long_ago.FromDatetime(datetime.now(UTC) - timedelta(days=800))
        assert (await refusal(api.charge(budget, "1", charge_time=long_ago))).reason == "OUTSIDE_PERIOD"

    async def test_days_start_in_the_budgets_time_zone(self, api: BudgetsApi) -> None:
        budget = await api.open(
            time_zone="Pacific/Auckland", period_type=Budget.MONTHLY, period_start_date="2026-01-01", recurring=False
        )
        first, before = Timestamp(), Timestamp()
        first.FromJsonString("2025-12-31T11:00:00Z")
        before.FromJsonString("2025-12-31T10:59:59Z")
        assert await api.charge(budget, "1", charge_time=first)
        assert (await refusal(api.charge(budget, "1", charge_time=before))).reason == "OUTSIDE_PERIOD"

    async def test_another_currency_needs_a_rate(self, api: BudgetsApi) -> None:
        budget = await api.open()
        refused = await refusal(api.charge(budget, Money(currency_code="USD", amount="1")))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RATE_MISSING")
        assert (refused.metadata["from_currency_code"], refused.metadata["to_currency_code"]) == ("USD", "EUR")

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"amount": eur("0.00")}, "amount"),
            ({"amount": eur("-1")}, "amount"),
            ({"amount": eur("1.001")}, "amount.amount"),
            ({"amount": eur("1,000")}, "amount.amount"),
            ({"amount": eur("1e3")}, "amount.amount"),
            ({"amount": Money(amount="1")}, "amount.currency_code"),
            ({"amount": Money(currency_code="XXY", amount="1")}, "amount.currency_code"),
            ({"amount": None}, "amount"),
            ({"charge_time": Timestamp(seconds=10**15)}, "charge_time"),
            ({"charge_time": Timestamp(seconds=-(10**15))}, "charge_time"),
            ({"charge_time": Timestamp(nanos=-1)}, "charge_time"),
            ({"request_id": ""}, "request_id"),
            ({"request_id": "with space"}, "request_id"),
            ({"id": "bud_1"}, "id"),
            ({"id": "ent_" + "0" * 32}, "id"),
            ({"description": "x" * 501}, "description"),
        ],
    )
    async def test_invalid_input_is_refused_with_its_field(
        self, api: BudgetsApi, given: dict[str, Any], field: str
    ) -> None:
        good = {"id": "bud_" + "0" * 32, "amount": eur("1"), "request_id": "k"}
        refused = await refusal(api.who.call(api.stubs.ledger.Charge, ledger_pb.ChargeRequest(**{**good, **given})))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert set(refused.fields) == {field}


class TestKeys:
    async def test_a_repeated_key_returns_the_same_charge(self, api: BudgetsApi) -> None:
        budget = await api.open()
        first = await api.charge(budget, "10", "po-1")
        request = ledger_pb.ChargeRequest(id=budget.id, amount=eur("10"), request_id="po-1")
        repeated, trailers = await api.who.call_with_trailers(api.stubs.ledger.Charge, request)
        assert repeated == first
        assert trailers["idempotency-replayed"] == "true"
        assert (await api.get(budget)).spent.amount == "10.00"

    async def test_a_repeated_key_returns_its_charge_after_the_budget_ran_out(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        first = await api.charge(budget, "60", "po-1")
        await api.charge(budget, "40", "po-2")
        assert await api.charge(budget, "60", "po-1") == first

    async def test_a_refused_charge_can_be_retried_with_its_key(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        assert (await refusal(api.charge(budget, "150", "po-1"))).reason == "BUDGET_EXCEEDED"
        await api.update(budget, amount=eur("200"))
        assert (await api.charge(budget, "150", "po-1")).verdict == Charge.ACCEPTED

    async def test_a_key_with_different_input_is_refused(self, api: BudgetsApi) -> None:
        budget = await api.open()
        await api.charge(budget, "10", "po-1")
        refused = await refusal(api.charge(budget, "11", "po-1"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")

    async def test_tenants_have_separate_keys(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        other = api_for(caller(tenant=uuid4()))
        mine, theirs = await api.open(), await other.open()
        assert (await api.charge(mine, "1", "po-1")).id != (await other.charge(theirs, "2", "po-1")).id

    async def test_concurrent_requests_with_one_key_charge_once(self, api: BudgetsApi) -> None:
        budget = await api.open()
        charges = await asyncio.gather(*(api.charge(budget, "10", "po-1") for _ in range(20)))
        assert len({charge.id for charge in charges}) == 1
        assert (await api.get(budget)).spent.amount == "10.00"

    async def test_a_charge_is_found_by_its_key(self, api: BudgetsApi) -> None:
        group = await api.open("500", name="Group")
        team = await api.open("100", name="Team", parent_id=group.id)
        charge = await api.charge(team, "10", "po-1", reference="PO-1")
        await api.charge(team, "20")
        assert await api.who.call(api.stubs.ledger.GetCharge, ledger_pb.GetChargeRequest(request_id="po-1")) == charge

    async def test_the_key_of_a_refused_charge_is_not_found(self, api: BudgetsApi) -> None:
        refused = await refusal(api.who.call(api.stubs.ledger.GetCharge, ledger_pb.GetChargeRequest(request_id="po-9")))
        assert refused.reason == "CHARGE_NOT_FOUND"


class TestRaces:
    async def test_a_budget_for_twenty_charges_accepts_twenty_of_two_hundred(self, api: BudgetsApi) -> None:
        group = await api.open("1000", name="Group")
        team = await api.open("200", name="Team", parent_id=group.id)
        callers = asyncio.Semaphore(64)

        async def attempt() -> bool:
            async with callers:
                try:
                    await api.charge(team, "10")
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error.details()
                    return False
                return True

        outcomes = await asyncio.gather(*(attempt() for _ in range(200)))
        assert outcomes.count(True) == 20
        assert [(await api.get(budget)).spent.amount for budget in (team, group)] == ["200.00", "200.00"]

    async def test_concurrent_charges_in_one_tree_never_deadlock(self, api: BudgetsApi, admin: Any) -> None:
        group = await api.open("100", name="Group")
        teams = [await api.open("100", name=f"Team {n}", parent_id=group.id) for n in range(4)]
        charges = await asyncio.gather(*(api.charge(teams[n % 4], "1.37") for n in range(80)), return_exceptions=True)
        accepted = [charge for charge in charges if not isinstance(charge, BaseException)]
        assert len(accepted) == 72  # 72 × 1.37 = 98.64; one more would be 100.01
        assert (await api.get(group)).spent.amount == "98.64"
        assert sum([Decimal((await api.get(team)).spent.amount) for team in teams]) == Decimal("98.64")
        versions = await admin.fetch(
            "select chain_versions[2] as version, chain_spent[2] as spent from budgets.budget_entries"
            " where chain_ids[2] = $1 order by 1",
            group.id.removeprefix("bud_"),
        )
        assert [row["version"] for row in versions] == list(range(1, 73))
        assert [row["spent"] for row in versions] == [Decimal("1.37") * n for n in range(1, 73)]


class TestCheckAvailability:
    async def check(self, api: BudgetsApi, budget: Budget, amount: str) -> Availability:
        request = ledger_pb.CheckAvailabilityRequest(id=budget.id, amount=eur(amount))
        return await api.who.call(api.stubs.ledger.CheckAvailability, request)

    async def test_a_check_names_the_binding_budget_and_changes_nothing(self, api: BudgetsApi) -> None:
        group = await api.open("100", name="Group")
        team = await api.open("1000", name="Team", parent_id=group.id)
        fits = await self.check(api, team, "100")
        assert (fits.verdict, fits.binding_budget_id) == (Availability.AVAILABLE, group.id)
        too_much = await self.check(api, team, "100.01")
        assert (too_much.verdict, too_much.binding_budget_id) == (Availability.EXCEEDED, group.id)
        assert "exceeds it by 0.01 EUR" in too_much.explanation
        assert [b.available_after.amount for b in too_much.chain] == ["899.99", "-0.01"]
        assert (await api.get(team)).spent.amount == "0.00"

    async def test_a_check_returns_each_verdict(self, api: BudgetsApi) -> None:
        warn = await api.open("10", overspend_policy=Budget.WARN)
        draft = await api.open(draft=True)
        past = await api.open(period_type=Budget.MONTHLY, period_start_date="2020-01-01", recurring=False)
        assert (await self.check(api, warn, "11")).verdict == Availability.AVAILABLE_OVERSPENT
        assert (await self.check(api, draft, "11")).verdict == Availability.NOT_ACTIVE
        assert (await self.check(api, past, "11")).verdict == Availability.OUTSIDE_PERIOD

    async def test_a_check_returns_the_verdict_of_each_policy(self, api: BudgetsApi) -> None:
        budget = await api.open("100", tolerance_bp=500)
        verdicts = {
            amount: {outcome.policy: outcome.verdict for outcome in (await self.check(api, budget, amount)).by_policy}
            for amount in ("100", "105", "105.01")
        }
        policies = (Budget.BLOCK, Budget.WARN, Budget.REQUIRE_APPROVAL, Budget.ALLOW_WITHIN_TOLERANCE)
        exceeded, overspent = Availability.EXCEEDED, Availability.AVAILABLE_OVERSPENT
        approval = Availability.APPROVAL_REQUIRED
        assert verdicts == {
            "100": dict.fromkeys(policies, Availability.AVAILABLE),
            "105": dict(zip(policies, (exceeded, overspent, approval, overspent), strict=True)),
            "105.01": dict(zip(policies, (exceeded, overspent, approval, exceeded), strict=True)),
        }

    async def test_each_line_is_checked_after_those_before_it_that_fit(self, api: BudgetsApi) -> None:
        group = await api.open("100", name="Group")
        team, other = await api.open("60", parent_id=group.id), await api.open("90", parent_id=group.id)
        lines = [
            ledger_pb.CheckLine(amount=eur("50")),
            ledger_pb.CheckLine(amount=eur("20")),
            ledger_pb.CheckLine(budget_id=other.id, amount=eur("80")),
            ledger_pb.CheckLine(budget_id=other.id, amount=eur("40")),
        ]
        request = ledger_pb.CheckAvailabilityRequest(id=team.id, amount=eur("10"), lines=lines)
        availability = await api.who.call(api.stubs.ledger.CheckAvailability, request)
        assert availability.verdict == Availability.AVAILABLE
        assert [(line.verdict, line.binding_budget_id) for line in availability.lines] == [
            (Availability.AVAILABLE, team.id),
            (Availability.EXCEEDED, team.id),
            (Availability.EXCEEDED, group.id),
            (Availability.AVAILABLE, group.id),
        ]
        assert [(await api.get(budget)).spent.amount for budget in (group, team, other)] == ["0.00"] * 3
