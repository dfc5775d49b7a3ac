"""Splits of costs: shares, rules, usage, previews, repetition, currencies and access."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, TypeAlias

import asyncpg
import pytest
from billing.entities.v1 import allocation_rule_service_pb2 as pb
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, CostSplit
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from grpc import StatusCode, aio

from kit import clock, ids
from tests.entities.allocation_api import money
from tests.entities.rules_api import RulesApi, amounts, even, split_request, target, terms
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import OutboxEvent
from tests.harness.services import Entities

FIXED, PROPORTIONAL = AllocationRule.FIXED_PERCENT, AllocationRule.PROPORTIONAL
HEADCOUNT, USAGE, GIVEN = AllocationRule.HEADCOUNT, AllocationRule.USAGE, AllocationRule.GIVEN
Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Events: TypeAlias = Callable[..., Awaitable[list[OutboxEvent]]]


@pytest.fixture
def api_for(entities: Entities) -> Callable[[Caller], RulesApi]:
    return lambda caller: RulesApi(caller, entities)


@pytest.fixture
def api(api_for: Callable[[Caller], RulesApi], finance: Caller) -> RulesApi:
    return api_for(finance)


@pytest.fixture
async def it(api: RulesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "IT", headcount=0, gl_code="6000")


@pytest.fixture
async def eng(api: RulesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "ENG", headcount=30, gl_code="6100")


@pytest.fixture
async def sales(api: RulesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "SALES", headcount=10, gl_code="6200")


@pytest.fixture
async def tokyo(api: RulesApi) -> Department:
    """A department of an entity with another currency."""
    return await api.create_department(
        await api.create_entity("JP", currency_code="JPY", country_code="JP"), "TOKYO", headcount=60
    )


class TestByRule:
    async def test_each_share_is_allocated(self, api: RulesApi, eng: Department, sales: Department) -> None:
        rule = await api.create_rule(target(eng, percent=3333), target(sales, percent=6667), rule_type=FIXED)
        split = await api.split(
            "100.00 EUR", rule_id=rule.id, category="rent", description="March", source_ref="bill-1"
        )
        assert amounts(split) == ["33.33 EUR", "66.67 EUR"]
        assert [(share.weight, share.fraction) for share in split.shares] == [
            ("3333", "3333/10000"),
            ("6667", "6667/10000"),
        ]
        assert (split.rule_id, split.rule_etag, split.rule_type) == (rule.id, "1", FIXED)
        [first], [second] = await api.allocations_of(eng), await api.allocations_of(sales)
        assert [first.id, second.id] == [share.allocation_id for share in split.shares]
        assert (first.amount, first.category, first.description) == (money("33.33 EUR"), "rent", "March")
        assert (first.source, first.source_ref) == (Allocation.SPLIT, f"bill-1/{eng.id}")
        assert (first.allocation_date, first.gl_code, second.gl_code) == ("2026-03-10", "6100", "6200")

    async def test_share_of_zero_is_not_allocated(self, api: RulesApi, eng: Department, sales: Department) -> None:
        rule = await api.create_rule(target(sales, percent=500), target(eng, percent=9500), rule_type=FIXED)
        split = await api.split("0.01 EUR", rule_id=rule.id)
        assert amounts(split) == ["0.00 EUR", "0.01 EUR"]
        assert [bool(share.allocation_id) for share in split.shares] == [False, True]
        assert len(await api.allocations_of_all(eng, sales)) == 1

    async def test_even_split_gives_the_rest_to_the_first(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        rule = await api.create_rule(*even(sales, it, eng))
        split = await api.split("100.00 EUR", rule_id=rule.id, gl_code="7000")
        assert amounts(split) == ["33.34 EUR", "33.33 EUR", "33.33 EUR"]
        assert {share.fraction for share in split.shares} == {"1/3"}
        assert {allocation.gl_code for allocation in await api.allocations_of_all(it, eng, sales)} == {"7000"}

    async def test_split_by_current_headcount(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        rule = await api.create_rule(*even(it, eng, sales), rule_type=PROPORTIONAL, basis=HEADCOUNT)
        assert amounts(await api.split("100.00 EUR", rule_id=rule.id)) == ["0.00 EUR", "75.00 EUR", "25.00 EUR"]
        await api.update_department(it, headcount=60)
        assert amounts(await api.split("100.00 EUR", rule_id=rule.id)) == ["60.00 EUR", "30.00 EUR", "10.00 EUR"]

    async def test_split_by_given_weights(self, api: RulesApi, eng: Department, sales: Department) -> None:
        targets = [target(eng, weight="120.5"), target(sales, weight="79.5")]
        rule = await api.create_rule(*targets, rule_type=PROPORTIONAL, basis=GIVEN)
        split = await api.split("10.00 EUR", rule_id=rule.id)
        assert amounts(split) == [
            "6.03 EUR",
            "3.97 EUR",
        ]  # 6.025 and 3.975 have equal remainders: the first gets the cent
        assert [(share.weight, share.fraction) for share in split.shares] == [("120.5", "241/400"), ("79.5", "159/400")]

    async def test_zero_weights_are_refused(self, api: RulesApi, it: Department) -> None:
        rule = await api.create_rule(target(it), rule_type=PROPORTIONAL, basis=HEADCOUNT)
        error = await refusal(api.split("1.00 EUR", rule_id=rule.id))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "SPLIT_WEIGHTS_ALL_ZERO")


class TestByUsage:
    @pytest.fixture
    async def rule(self, api: RulesApi, eng: Department, sales: Department) -> AllocationRule:
        targets = even(eng, sales)
        return await api.create_rule(
            *targets, rule_type=PROPORTIONAL, basis=USAGE, usage_unit="GB", usage_category="storage"
        )

    async def test_usage_of_unit_and_category_in_the_month_counts(
        self, api: RulesApi, rule: AllocationRule, eng: Department, sales: Department
    ) -> None:
        used: dict[str, Any] = {"unit": "GB", "category": "storage"}
        await api.allocate(eng, "5.00 EUR", quantity="1.5", allocation_date="2026-03-01", **used)
        await api.allocate(eng, "5.00 EUR", quantity="0.5", allocation_date="2026-03-31", **used)
        await api.allocate(sales, "5.00 EUR", quantity="6", allocation_date="2026-03-10", **used)
        for other in ({"allocation_date": "2026-02-28"}, {"allocation_date": "2026-04-01"}, {"unit": "h"},
                      {"category": "compute"}):  # fmt: skip
            await api.allocate(eng, "5.00 EUR", **{**used, "quantity": "1000", **other})
        split = await api.split("100.00 EUR", rule_id=rule.id)
        assert amounts(split) == ["25.00 EUR", "75.00 EUR"]
        assert [share.weight for share in split.shares] == ["2", "6"]
        assert (split.usage_start_date, split.usage_end_date) == ("2026-03-01", "2026-04-01")
        period = {"usage_start_date": "2026-02-28", "usage_end_date": "2026-03-01"}
        assert amounts(await api.split("100.00 EUR", rule_id=rule.id, **period)) == ["100.00 EUR", "0.00 EUR"]

    async def test_reversed_usage_does_not_count(
        self, api: RulesApi, rule: AllocationRule, eng: Department, sales: Department
    ) -> None:
        used: dict[str, Any] = {"unit": "GB", "category": "storage"}
        mistaken = await api.allocate(eng, "5.00 EUR", quantity="1000", **used)
        await api.allocate(sales, "5.00 EUR", quantity="1", **used)
        await api.split(allocation_id=mistaken.id, terms=terms(target(sales)))
        assert [share.weight for share in (await api.split("1.00 EUR", rule_id=rule.id)).shares] == ["0", "1"]

    async def test_no_usage_is_refused(self, api: RulesApi, rule: AllocationRule) -> None:
        assert (await refusal(api.split("1.00 EUR", rule_id=rule.id))).reason == "SPLIT_WEIGHTS_ALL_ZERO"


class TestScopeOfRule:
    async def test_rule_must_be_effective_on_the_date(self, api: RulesApi, eng: Department) -> None:
        rule = await api.create_rule(
            target(eng), effective_from_date="2026-02-01", effective_to_date="2026-03-01"
        )  # fmt: skip
        for day in ("2026-02-01", "2026-02-28"):
            assert await api.split("1.00 EUR", rule_id=rule.id, allocation_date=day)
        for day in ("2026-01-31", "2026-03-01"):
            error = await refusal(api.split("1.00 EUR", rule_id=rule.id, allocation_date=day))
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ALLOCATION_RULE_NOT_EFFECTIVE")
            assert error.metadata == {
                "allocation_rule_id": rule.id, "allocation_date": day, "effective_from_date": "2026-02-01",
                "effective_to_date": "2026-03-01",
            }  # fmt: skip

    async def test_ended_rule_is_refused(self, api: RulesApi, eng: Department) -> None:
        rule = await api.create_rule(target(eng))
        await api.delete_rule(rule)
        error = await refusal(api.split("1.00 EUR", rule_id=rule.id))
        assert (error.reason, error.metadata["state"]) == ("ALLOCATION_RULE_STATE", "ENDED")
        unknown = await refusal(api.split("1.00 EUR", rule_id=ids.ALLOCATION_RULE.format(ids.new())))
        assert unknown.reason == "ALLOCATION_RULE_NOT_FOUND"

    async def test_category_and_source_must_match_the_rule(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        rule = await api.create_rule(target(eng), category="cloud", source_department_id=it.id)
        split = await api.split("1.00 EUR", rule_id=rule.id)
        assert (split.category, split.source_department_id) == ("cloud", it.id)
        assert await api.split("1.00 EUR", rule_id=rule.id, category="cloud", source_department_id=it.id)
        mismatches = {"category": ("rent", "cloud"), "source_department_id": (sales.id, it.id)}
        for field, (fields, expected) in mismatches.items():
            error = await refusal(api.split("1.00 EUR", rule_id=rule.id, **{field: fields}))
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ALLOCATION_RULE_MISMATCH")
            assert error.metadata == {
                "allocation_rule_id": rule.id, "field": field, "given": fields, "wanted": expected
            }  # fmt: skip

    async def test_target_that_is_source_of_another_rule_is_refused(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        rule = await api.create_rule(
            target(it), source_department_id=eng.id, category="cloud", effective_to_date="2026-06-01"
        )
        fields: dict[str, Any] = {"terms": terms(*even(sales, eng)), "source_department_id": it.id, "category": "cloud"}
        error = await refusal(api.split("1.00 EUR", **fields))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ALLOCATION_RULES_CHAIN")
        assert error.metadata == {"allocation_rule_id": rule.id, "path": f"{it.id} → {eng.id} → {it.id}"}
        assert await api.allocations_of_all(it, eng, sales) == []
        assert await api.split("1.00 EUR", **{**fields, "category": "rent"})
        assert await api.split("1.00 EUR", **fields, allocation_date="2026-06-01")
        await api.delete_rule(rule)
        assert await api.split("1.00 EUR", **fields)

    async def test_error_lists_all_missing_and_inconsistent_fields(
        self, api: RulesApi, it: Department, eng: Department
    ) -> None:
        request = pb.SplitCostRequest(
            terms=terms(target(eng)), rule_id=ids.ALLOCATION_RULE.format(ids.new()), amount=money("1.00 EUR"),
            usage_start_date="2026-03-01", request_id="k",
        )  # fmt: skip
        error = await refusal(api.caller.call(api.rules_stub.SplitCost, request))
        assert set(error.fields) == {"rule_id", "allocation_date", "source_ref", "usage_end_date"}
        error = await refusal(api.split(terms=terms(target(eng))))
        assert set(error.fields) == {"amount"}
        allocation = await api.allocate(it, "1.00 EUR")
        error = await refusal(api.split("1.00 EUR", allocation_id=allocation.id, terms=terms(target(eng))))
        assert set(error.fields) == {"amount"}
        error = await refusal(api.split(allocation_id=allocation.id, terms=terms(target(eng)), category="x"))
        assert set(error.fields) == {"category"}
        for amount in ("0.00 EUR", "-1.00 EUR", "1.001 EUR"):
            error = await refusal(api.split(amount, terms=terms(target(eng))))
            assert error.reason == "INVALID_FIELDS"
        mismatches = terms(*even(eng, eng, it), rule_type=FIXED)
        error = await refusal(api.split("1.00 EUR", terms=mismatches, source_department_id=it.id))
        assert set(error.fields) == {
            "terms.targets", "terms.targets[1].department_id", "terms.targets[2].department_id",
        }  # fmt: skip

    async def test_inactive_target_fails_the_whole_split(
        self, api: RulesApi, eng: Department, sales: Department
    ) -> None:
        rule = await api.create_rule(*even(eng, sales))
        await api.deactivate_department(sales)
        today = clock.now().date().isoformat()
        error = await refusal(api.split("1.00 EUR", rule_id=rule.id, source_ref="bill", allocation_date=today))
        assert (error.reason, error.metadata["department_id"]) == ("DEPARTMENT_INACTIVE_ON_DATE", sales.id)
        assert await api.allocations_of_all(eng, sales) == []
        await api.update_rule(rule, targets=even(eng))
        assert amounts(await api.split("1.00 EUR", rule_id=rule.id, source_ref="bill")) == ["1.00 EUR"]


class TestOnce:
    async def test_repeated_key_returns_same_response_and_refuses_another_body(
        self, api: RulesApi, eng: Department, sales: Department
    ) -> None:
        fields: dict[str, Any] = {"terms": terms(*even(eng, sales)), "source_ref": "bill", "request_id": "key-1"}
        first = await api.split("1.00 EUR", **fields)
        assert await api.split("1.00 EUR", **fields) == first
        assert (await refusal(api.split("2.00 EUR", **fields))).reason == "IDEMPOTENCY_MISMATCH"
        assert len(await api.allocations_of_all(eng, sales)) == 2

    async def test_cost_is_split_once_despite_other_key_and_targets(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        await api.split("1.00 EUR", terms=terms(target(eng)), source_ref="bill")
        for targets in (even(eng), even(it, sales)):
            error = await refusal(api.split("1.00 EUR", terms=terms(*targets), source_ref="bill"))
            assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "COST_ALREADY_SPLIT")
            assert error.metadata == {"source_ref": "bill"}
            assert (
                error.message == "The cost 'bill' is already split; it can be split again after that split is reversed."
            )
        assert len(await api.allocations_of_all(it, eng, sales)) == 1

    async def test_of_concurrent_splits_one_succeeds(
        self, api: RulesApi, it: Department, eng: Department, sales: Department, outbox_events: Events
    ) -> None:
        fields = [even(eng, sales), even(it, sales), even(it, eng), even(sales, eng)] * 2
        splits = [api.split("1.01 EUR", terms=terms(*targets), source_ref="bill") for targets in fields]
        responses = await asyncio.gather(*splits, return_exceptions=True)
        [split] = [response for response in responses if isinstance(response, CostSplit)]
        errors = [Refusal.of(response) for response in responses if isinstance(response, aio.AioRpcError)]
        assert {error.reason for error in errors} == {"COST_ALREADY_SPLIT"}
        assert len(errors) == len(fields) - 1
        borne = await api.allocations_of_all(it, eng, sales)
        assert sum(Decimal(allocation.amount.amount) for allocation in borne) == Decimal("1.01")
        bodies = [event.body for event in await outbox_events("entities") if event.type.endswith(".CostAllocated")]
        assert {body["allocation_id"] for body in bodies} == {share.allocation_id for share in split.shares}

    async def test_concurrent_calls_with_one_key_return_the_same(self, api: RulesApi, eng: Department) -> None:
        request = split_request("1.00 EUR", terms=terms(target(eng)))
        responses = await asyncio.gather(*(api.caller.call(api.rules_stub.SplitCost, request) for _ in range(6)))
        assert all(response == responses[0] for response in responses)
        assert len(await api.allocations_of(eng)) == 1


class TestValidateOnly:
    async def test_preview_equals_the_split_and_stores_nothing(
        self, api: RulesApi, it: Department, eng: Department, sales: Department, tokyo: Department,
        outbox_events: Events,
    ) -> None:  # fmt: skip
        await api.set_rates("2026-03-01 EUR/JPY 161.37")
        rule = await api.create_rule(*even(it, eng, sales, tokyo), rule_type=PROPORTIONAL, basis=HEADCOUNT)
        fields: dict[str, Any] = {"rule_id": rule.id, "source_ref": "bill", "request_id": "key-1"}
        preview = await api.split("1000.03 EUR", **fields, validate_only=True)
        assert amounts(preview) == ["0.00 EUR", "300.01 EUR", "100.00 EUR", "600.02 EUR"]
        assert preview.validate_only
        assert not any(share.allocation_id for share in preview.shares)
        assert await api.allocations_of_all(it, eng, sales, tokyo) == []
        assert await api.list_splits() == []
        assert not [event for event in await outbox_events("entities") if event.type.endswith(".CostAllocated")]
        split = await api.split("1000.03 EUR", **fields)
        for share in split.shares:
            share.allocation_id = ""
        for field in ("id", "create_time"):
            split.ClearField(field)
        split.validate_only = True
        assert split == preview
        written = [allocation.amount for allocation in await api.allocations_of_all(it, eng, sales, tokyo)]
        assert written == [share.amount for share in preview.shares if share.amount.amount != "0.00"]

    async def test_preview_fails_like_the_split(self, api: RulesApi, eng: Department, tokyo: Department) -> None:
        fields: dict[str, Any] = {"terms": terms(*even(eng, tokyo)), "source_ref": "bill"}
        preview = await refusal(api.split("1.00 EUR", **fields, validate_only=True))
        assert preview == await refusal(api.split("1.00 EUR", **fields))
        assert preview.reason == "RATE_MISSING"


class TestCurrencies:
    async def test_shares_are_converted_and_sum_to_the_original_amount(
        self, api: RulesApi, acme: Entity, eng: Department, sales: Department, tokyo: Department
    ) -> None:
        await api.set_rates("2026-03-01 USD/EUR 0.9", "2026-03-01 USD/JPY 150")
        split = await api.split("100.00 USD", terms=terms(*even(eng, tokyo, sales)))
        assert amounts(split) == ["33.34 USD", "33.33 USD", "33.33 USD"]
        borne = await api.allocations_of_all(eng, tokyo, sales)
        assert sum(Decimal(allocation.amount.amount) for allocation in borne) == Decimal("100.00")
        assert [allocation.entity_amount for allocation in borne] == [
            money("30.00 EUR"), money("5000 JPY"), money("30.00 EUR"),
        ]  # fmt: skip

    async def test_shares_have_the_digits_of_the_currency(
        self, api: RulesApi, eng: Department, sales: Department
    ) -> None:
        await api.set_rates("2026-03-01 EUR/JPY 160", "2026-03-01 EUR/BHD 0.4")
        both = terms(*even(eng, sales))
        assert amounts(await api.split("101 JPY", terms=both)) == ["51 JPY", "50 JPY"]
        assert amounts(await api.split("0.101 BHD", terms=both)) == ["0.051 BHD", "0.050 BHD"]

    async def test_missing_rate_fails_the_whole_split(self, api: RulesApi, eng: Department, tokyo: Department) -> None:
        error = await refusal(api.split("1.00 EUR", terms=terms(*even(eng, tokyo)), source_ref="bill"))
        assert error.reason == "RATE_MISSING"
        assert {"EUR", "JPY", "2026-03-10"} <= set(error.metadata.values())
        assert await api.allocations_of_all(eng, tokyo) == []
        await api.set_rates("2026-03-01 EUR/JPY 160")
        assert await api.split("1.00 EUR", terms=terms(*even(eng, tokyo)), source_ref="bill")

    async def test_source_entity_becomes_counterparty(
        self, api: RulesApi, acme: Entity, it: Department, eng: Department, tokyo: Department
    ) -> None:
        await api.set_rates("2026-03-01 EUR/JPY 160")
        await api.split("10.00 EUR", terms=terms(*even(eng, tokyo)), source_department_id=it.id)
        [near], [far] = await api.allocations_of(eng), await api.allocations_of(tokyo)
        assert (near.counterparty_entity_id, far.counterparty_entity_id) == ("", acme.id)


class TestListCostSplits:
    async def test_split_explains_each_share_later(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        rule = await api.create_rule(*even(it, eng, sales), rule_type=PROPORTIONAL, basis=HEADCOUNT)
        split = await api.split("100.00 EUR", rule_id=rule.id, description="March")
        await api.update_department(eng, headcount=1)
        await api.update_rule(rule, targets=even(it))
        await api.delete_rule(rule)
        assert await api.list_splits(rule_id=rule.id) == [split]

    async def test_every_filter(self, api: RulesApi, eng: Department) -> None:
        rule = await api.create_rule(target(eng))
        one = await api.split("1.00 EUR", rule_id=rule.id, allocation_date="2026-01-31")
        two = await api.split("2.00 EUR", terms=terms(target(eng)), allocation_date="2026-02-01", source_ref="two")
        assert await api.list_splits() == [one, two]
        assert await api.list_splits(rule_id=rule.id) == [one]
        assert await api.list_splits(source_ref="two") == [two]
        assert await api.list_splits(start_date="2026-02-01") == [two]
        assert await api.list_splits(end_date="2026-02-01") == [one]

    async def test_split_cannot_be_changed(self, api: RulesApi, eng: Department, admin: Admin) -> None:
        await api.split("1.00 EUR", terms=terms(target(eng)))
        for statement in ("update entities.cost_splits set amount = 2", "delete from entities.cost_splits"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await admin.execute(f"{statement} where tenant_id = $1", api.caller.tenant_id)


class TestScopes:
    async def test_confined_caller_splits_within_the_scope(
        self,
        api: RulesApi,
        acme: Entity,
        it: Department,
        eng: Department,
        tokyo: Department,
        api_for: Callable[[Caller], RulesApi],
        caller: Callable[..., Caller],
    ) -> None:
        await api.set_rates("2026-03-01 EUR/JPY 160")
        conny = api_for(caller("finance", subject="conny", entity_scope=[acme.id]))
        over = await api.create_rule(*even(eng, tokyo))
        assert (await refusal(conny.split("1.00 EUR", rule_id=over.id))).reason == "ALLOCATION_RULE_NOT_FOUND"
        error = await refusal(conny.split("1.00 EUR", terms=terms(*even(eng, tokyo))))
        assert (error.reason, set(error.fields)) == (
            "ALLOCATION_DEPARTMENTS_NOT_FOUND", {"terms.targets[1].department_id"}
        )  # fmt: skip
        error = await refusal(conny.split("1.00 EUR", terms=terms(target(eng)), source_department_id=tokyo.id))
        assert set(error.fields) == {"source_department_id"}
        outside = await api.allocate(tokyo, "1.00 EUR")
        error = await refusal(conny.split(allocation_id=outside.id, terms=terms(target(eng))))
        assert error.reason == "ALLOCATION_NOT_FOUND"
        own = await conny.split("1.00 EUR", terms=terms(target(eng)), source_department_id=it.id)
        await api.split("1.00 EUR", terms=terms(*even(eng, tokyo)))
        await api.split("1.00 EUR", terms=terms(target(eng)), source_department_id=tokyo.id)
        assert await conny.list_splits() == [own]
        assert len(await api.list_splits()) == 3
        assert await api_for(caller("department_manager", department_scope=[eng.id])).list_splits() == []
        assert await api_for(caller("department_manager", department_scope=[eng.id, it.id])).list_splits() == [own]

    async def test_other_tenant_finds_nothing(
        self, api: RulesApi, eng: Department, api_for: Callable[[Caller], RulesApi], caller: Callable[..., Caller]
    ) -> None:
        rule = await api.create_rule(target(eng))
        await api.split("1.00 EUR", rule_id=rule.id, source_ref="bill")
        other_tenant = api_for(caller("billing_admin", tenant=ids.new()))
        own = await other_tenant.create_department(await other_tenant.create_entity("OWN"))
        assert (await refusal(other_tenant.split("1.00 EUR", rule_id=rule.id))).reason == "ALLOCATION_RULE_NOT_FOUND"
        error = await refusal(other_tenant.split("1.00 EUR", terms=terms(*even(own, eng))))
        assert set(error.fields) == {"terms.targets[1].department_id"}
        assert await other_tenant.list_splits() == []
        assert await other_tenant.split("1.00 EUR", terms=terms(target(own)), source_ref="bill")

    async def test_viewer_cannot_split(
        self, api_for: Callable[[Caller], RulesApi], caller: Callable[..., Caller], eng: Department
    ) -> None:
        for tried in (False, True):
            error = await refusal(api_for(caller("auditor")).split("1.00 EUR", terms=terms(target(eng)),
                                                                     validate_only=tried))  # fmt: skip
            assert error.reason == "PERMISSION_MISSING"
