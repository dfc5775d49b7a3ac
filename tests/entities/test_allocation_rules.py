"""Allocation rules: consistency, access, and chains of rules."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from billing.entities.v1 import allocation_rule_service_pb2 as pb
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, AllocationTarget
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode, aio

from kit import ids
from tests.entities.rules_api import RulesApi, even, target
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import AuditRow
from tests.harness.services import Entities

FIXED, EVEN, PROPORTIONAL = AllocationRule.FIXED_PERCENT, AllocationRule.EVEN, AllocationRule.PROPORTIONAL
HEADCOUNT, USAGE, GIVEN = AllocationRule.HEADCOUNT, AllocationRule.USAGE, AllocationRule.GIVEN
UNKNOWN_ID = ids.ALLOCATION_RULE.format(ids.new())
NO_DEPARTMENT = ids.DEPARTMENT.format(ids.new())


@pytest.fixture
def api_for(entities: Entities) -> Callable[[Caller], RulesApi]:
    return lambda who: RulesApi(who, entities)


@pytest.fixture
def api(api_for: Callable[[Caller], RulesApi], finance: Caller) -> RulesApi:
    return api_for(finance)


@pytest.fixture
async def eng(api: RulesApi, acme: Entity) -> Department:
    return await api.create_department(acme, "ENG")


@pytest.fixture
async def sales(api: RulesApi) -> Department:
    """A department of another entity."""
    return await api.create_department(await api.create_entity("OTHER", currency_code="USD"), "SALES")


class TestCreateAllocationRule:
    async def test_has_the_given_fields(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        fields: dict[str, Any] = {
            "name": "IT by storage", "rule_type": PROPORTIONAL, "basis": USAGE, "usage_unit": "GB",
            "usage_category": "storage", "source_department_id": it.id, "category": "cloud",
            "effective_from_date": "2026-01-01", "effective_to_date": "2027-01-01",
        }  # fmt: skip
        created = await api.create_rule(*even(sales, eng), **fields)
        assert created == AllocationRule(
            **fields,
            targets=even(sales, eng),
            id=created.id,
            state=AllocationRule.ACTIVE,
            etag="1",
            create_time=created.create_time,
            update_time=created.update_time,
        )
        assert await api.get_rule(created) == created

    async def test_targets_keep_their_order(self, api: RulesApi, eng: Department, sales: Department) -> None:
        fixed = await api.create_rule(target(sales, percent=9500), target(eng, percent=500), rule_type=FIXED)
        assert [(each.department_id, each.percent_bp) for each in fixed.targets] == [(sales.id, 9500), (eng.id, 500)]
        fields = [target(sales, weight="120.500"), target(eng, weight="0")]
        weighed = await api.get_rule(await api.create_rule(*fields, rule_type=PROPORTIONAL, basis=GIVEN))
        assert [each.weight for each in weighed.targets] == ["120.5", "0"]

    async def test_error_lists_all_violations(self, api: RulesApi, eng: Department, it: Department) -> None:
        targets = [target(eng, percent=9000), target(it, weight="1"), target(eng, percent=500)]
        error = await refusal(
            api.create_rule(
                *targets,
                rule_type=FIXED,
                basis=GIVEN,
                usage_unit="GB",
                source_department_id=it.id,
                effective_to_date="2026-01-01",
            )
        )
        assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert set(error.fields) == {
            "basis", "usage_unit", "targets[0].weight", "targets[2].weight", "targets[2].department_id", "targets",
            "effective_to_date", "targets[1].department_id",
        }  # fmt: skip
        assert error.fields["targets"] == "have percentages that sum to 9500 basis points; they must sum to 10000"
        assert error.fields["targets[1].department_id"] == "is the source, whose costs are split"

    @pytest.mark.parametrize(
        ("fields", "targets", "wrong"),
        [
            ({"rule_type": PROPORTIONAL}, [{}, {}], {"basis"}),
            ({"rule_type": EVEN, "basis": HEADCOUNT}, [{}, {}], {"basis"}),
            ({"rule_type": PROPORTIONAL, "basis": USAGE}, [{}, {}], {"usage_unit"}),
            ({"rule_type": PROPORTIONAL, "basis": HEADCOUNT, "usage_category": "x"}, [{}, {}], {"usage_category"}),
            ({"rule_type": PROPORTIONAL, "basis": GIVEN}, [{"weight": "1"}, {}], {"targets[1].weight"}),
            ({"rule_type": PROPORTIONAL, "basis": GIVEN}, [{"weight": "0"}, {"weight": "0.0"}], {"targets"}),
            ({"rule_type": PROPORTIONAL, "basis": GIVEN}, [{"weight": "-1"}, {"weight": "1"}], {"targets[0].weight"}),
            ({"rule_type": EVEN}, [{"percent": 1}, {"weight": "1"}], {"targets[0].percent_bp", "targets[1].weight"}),
            ({"rule_type": FIXED}, [{"percent": 10000}, {"percent": 1}], {"targets"}),
            ({"rule_type": FIXED}, [{"percent": -1}, {"percent": 10001}],
             {"targets[0].percent_bp", "targets[1].percent_bp"}),
            ({"rule_type": EVEN}, [], {"targets"}),
        ],
    )  # fmt: skip
    async def test_inconsistent_terms_are_refused(
        self,
        api: RulesApi,
        eng: Department,
        sales: Department,
        fields: dict[str, Any],
        targets: list[dict[str, Any]],
        wrong: set[str],
    ) -> None:
        named = [target(department, **values) for department, values in zip((eng, sales), targets, strict=False)]
        error = await refusal(api.create_rule(*named, **fields))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", wrong)

    async def test_error_lists_all_unknown_departments(self, api: RulesApi, eng: Department) -> None:
        other = ids.DEPARTMENT.format(ids.new())
        error = await refusal(
            api.create_rule(target(NO_DEPARTMENT), target(eng), target(other), source_department_id=other)
        )
        assert set(error.fields) == {"targets[2].department_id"}
        error = await refusal(api.create_rule(target(NO_DEPARTMENT), target(eng), source_department_id=other))
        assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "ALLOCATION_DEPARTMENTS_NOT_FOUND")
        assert error.fields == {
            "targets[0].department_id": f"there is no department {NO_DEPARTMENT}",
            "source_department_id": f"there is no department {other}",
        }

    async def test_repeated_key_returns_same_response_and_refuses_another_body(
        self, api: RulesApi, eng: Department
    ) -> None:
        first = await api.create_rule(target(eng), request_id="key-1")
        assert await api.create_rule(target(eng), request_id="key-1") == first
        error = await refusal(api.create_rule(target(eng), name="Other", request_id="key-1"))
        assert error.reason == "IDEMPOTENCY_MISMATCH"
        assert await api.list_rule_names() == ["Rent"]

    async def test_viewer_cannot_create(
        self, api_for: Callable[[Caller], RulesApi], caller: Callable[..., Caller], eng: Department
    ) -> None:
        error = await refusal(api_for(caller("auditor")).create_rule(target(eng)))
        assert (error.reason, error.metadata) == ("PERMISSION_MISSING", {"permission": "allocations.write"})


class TestUpdateAllocationRule:
    async def test_other_fields_stay(self, api: RulesApi, it: Department, eng: Department) -> None:
        rule = await api.create_rule(
            target(eng), source_department_id=it.id, category="cloud", effective_to_date="2027-01-01"
        )
        changed = await api.update_rule(rule, name="Cloud", effective_from_date="2026-02-01")
        expected = AllocationRule()
        expected.CopyFrom(rule)
        expected.name, expected.effective_from_date, expected.etag = "Cloud", "2026-02-01", "2"
        expected.update_time.CopyFrom(changed.update_time)
        assert changed == expected
        assert await api.get_rule(rule) == expected

    async def test_fields_of_the_mask_without_value_are_cleared(
        self, api: RulesApi, it: Department, eng: Department
    ) -> None:
        rule = await api.create_rule(
            target(eng), source_department_id=it.id, category="cloud", effective_to_date="2027-01-01"
        )
        fields = ["source_department_id", "category", "effective_to_date"]
        changed = await api.update_rule(rule, update_mask=FieldMask(paths=fields))
        assert [getattr(changed, field) for field in fields] == ["", "", ""]
        error = await refusal(api.update_rule(rule, update_mask=FieldMask(paths=["targets", "name"])))
        assert set(error.fields) == {"targets", "name"}

    async def test_new_targets_replace_the_old_and_change_the_etag(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        rule = await api.create_rule(*even(it, eng))
        changed = await api.update_rule(rule, targets=even(eng, sales, it), etag="1")
        assert (list(changed.targets), changed.etag) == (even(eng, sales, it), "2")
        assert await api.get_rule(rule) == changed
        error = await refusal(api.update_rule(rule, targets=even(it), etag="1"))
        assert (error.code, error.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        assert await api.get_rule(rule) == changed

    async def test_changed_rule_must_be_consistent_as_a_whole(
        self, api: RulesApi, it: Department, eng: Department
    ) -> None:
        rule = await api.create_rule(target(it, percent=4000), target(eng, percent=6000), rule_type=FIXED)
        error = await refusal(api.update_rule(rule, rule_type=EVEN))
        assert set(error.fields) == {"targets[0].percent_bp", "targets[1].percent_bp"}
        changed = await api.update_rule(rule, rule_type=PROPORTIONAL, basis=HEADCOUNT, targets=even(it, eng))
        assert (changed.rule_type, changed.basis) == (PROPORTIONAL, HEADCOUNT)
        error = await refusal(api.update_rule(rule, effective_to_date="2025-12-31"))
        assert set(error.fields) == {"effective_to_date"}
        error = await refusal(api.update_rule(rule, source_department_id=it.id))
        assert set(error.fields) == {"targets[0].department_id"}
        assert await api.get_rule(rule) == changed

    async def test_unknown_rule_is_not_found(self, api: RulesApi) -> None:
        for call in (api.update_rule(UNKNOWN_ID, name="X"), api.get_rule(UNKNOWN_ID), api.delete_rule(UNKNOWN_ID)):
            error = await refusal(call)
            assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "ALLOCATION_RULE_NOT_FOUND")
            assert error.metadata == {"allocation_rule_id": UNKNOWN_ID}


class TestDeleteAllocationRule:
    async def test_ended_rule_can_be_read(self, api: RulesApi, eng: Department) -> None:
        rule = await api.create_rule(target(eng))
        assert (await refusal(api.delete_rule(rule, etag="7"))).reason == "ETAG_MISMATCH"
        ended = await api.delete_rule(rule, etag="1", request_id="key-1")
        assert (ended.state, ended.etag, list(ended.targets)) == (AllocationRule.ENDED, "2", [target(eng)])
        assert await api.delete_rule(rule, etag="1", request_id="key-1") == ended
        assert await api.get_rule(rule) == ended
        assert await api.list_rule_names(state=AllocationRule.ACTIVE) == []

    async def test_ended_rule_cannot_be_changed_or_ended_again(self, api: RulesApi, eng: Department) -> None:
        rule = await api.create_rule(target(eng))
        await api.delete_rule(rule)
        for call in (api.update_rule(rule, name="X"), api.delete_rule(rule)):
            error = await refusal(call)
            assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ALLOCATION_RULE_STATE")
            assert error.metadata == {"allocation_rule_id": rule.id, "state": "ENDED", "allowed": "ACTIVE"}

    async def test_audit_log_has_the_earlier_rule(
        self, api: RulesApi, it: Department, eng: Department, audit_rows: Callable[..., Awaitable[list[AuditRow]]]
    ) -> None:
        rule = await api.create_rule(target(it, percent=4000), target(eng, percent=6000), rule_type=FIXED)
        await api.update_rule(rule, targets=[target(it, percent=10000)])
        rows = [row for row in await audit_rows("entities") if row.table == "allocation_rule_targets"]
        before = [row.before["percent_bp"] for row in rows if row.action == "delete" and row.before]
        after = [row.after["percent_bp"] for row in rows if row.action == "insert" and row.after]
        assert (before, after) == ([4000, 6000], [4000, 6000, 10000])


class TestListAllocationRules:
    async def test_every_filter(self, api: RulesApi, it: Department, eng: Department, sales: Department) -> None:
        await api.create_rule(target(eng), name="old", effective_from_date="2025-01-01", effective_to_date="2026-01-01")
        await api.create_rule(*even(eng, sales), name="cloud", category="cloud", source_department_id=it.id)
        await api.create_rule(target(sales, percent=10000), name="fixed", rule_type=FIXED)
        await api.delete_rule(await api.create_rule(target(it), name="ended"))
        assert await api.list_rule_names() == ["old", "cloud", "fixed", "ended"]
        assert await api.list_rule_names(state=AllocationRule.ENDED) == ["ended"]
        assert await api.list_rule_names(rule_type=FIXED) == ["fixed"]
        assert await api.list_rule_names(target_department_id=sales.id) == ["cloud", "fixed"]
        assert await api.list_rule_names(source_department_id=it.id) == ["cloud"]
        assert await api.list_rule_names(category="cloud") == ["cloud"]
        assert await api.list_rule_names(effective_on_date="2025-12-31") == ["old"]
        assert await api.list_rule_names(effective_on_date="2026-01-01") == ["cloud", "fixed", "ended"]
        assert await api.list_rule_names(effective_on_date="2026-01-01", target_department_id=eng.id) == ["cloud"]

    async def test_pages(self, api: RulesApi, eng: Department) -> None:
        for number in range(5):
            await api.create_rule(target(eng), name=f"R{number}")
        listed_rules, token = [], ""
        for _ in range(3):
            request = pb.ListAllocationRulesRequest(page_size=2, page_token=token)
            page = await api.caller.call(api.rules_stub.ListAllocationRules, request)
            listed_rules += [(rule.name, len(rule.targets)) for rule in page.allocation_rules]
            token = page.next_page_token
        assert (listed_rules, token) == ([(f"R{number}", 1) for number in range(5)], "")


def chained(error: Refusal) -> tuple[str, str]:
    assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ALLOCATION_RULES_CHAIN")
    return error.metadata["allocation_rule_id"], error.metadata["path"]


class TestChains:
    async def test_cycle_of_two_rules_is_refused_with_its_path(
        self, api: RulesApi, it: Department, eng: Department
    ) -> None:
        existing = await api.create_rule(target(eng), source_department_id=it.id)
        error = await refusal(api.create_rule(target(it), source_department_id=eng.id))
        assert chained(error) == (existing.id, f"{eng.id} → {it.id} → {eng.id}")

    async def test_target_cannot_be_source_of_another_rule(
        self, api: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        second = await api.create_rule(target(sales), source_department_id=eng.id)
        error = await refusal(api.create_rule(*even(sales, eng), source_department_id=it.id))
        assert chained(error) == (second.id, f"{it.id} → {eng.id} → {sales.id}")
        await api.delete_rule(second)
        first = await api.create_rule(*even(sales, eng), source_department_id=it.id)
        error = await refusal(api.create_rule(target(sales), source_department_id=eng.id))
        assert chained(error) == (first.id, f"{it.id} → {eng.id} → {sales.id}")

    async def test_update_cannot_form_a_chain(self, api: RulesApi, it: Department, eng: Department) -> None:
        existing = await api.create_rule(target(eng), source_department_id=it.id)
        other = await api.create_rule(target(it))
        error = await refusal(api.update_rule(other, source_department_id=eng.id))
        assert chained(error)[0] == existing.id
        assert (await api.update_rule(existing, name="Same targets, same source")).etag == "2"

    async def test_reversed_rule_does_not_chain_with_its_earlier_version(
        self, api: RulesApi, it: Department, eng: Department
    ) -> None:
        rule = await api.create_rule(target(eng), source_department_id=it.id)
        turned = await api.update_rule(rule, targets=even(it), source_department_id=eng.id)
        assert (list(turned.targets), turned.source_department_id) == (even(it), eng.id)

    async def test_rules_for_different_costs_do_not_chain(self, api: RulesApi, it: Department, eng: Department) -> None:
        await api.create_rule(target(eng), source_department_id=it.id, category="cloud", effective_to_date="2027-01-01")
        back: dict[str, Any] = {"source_department_id": eng.id}
        assert await api.create_rule(target(it), **back, category="rent")
        assert await api.create_rule(target(it), **back, category="cloud", effective_from_date="2027-01-01")
        assert await api.create_rule(target(it), category="cloud")
        for same in ({}, {"category": "cloud"}, {"effective_from_date": "2026-12-31"}):
            chained(await refusal(api.create_rule(target(it), **back, **same)))

    async def test_of_two_concurrent_opposite_rules_one_is_created(
        self, api: RulesApi, it: Department, eng: Department
    ) -> None:
        for round_ in range(8):
            category = f"c{round_}"
            responses = await asyncio.gather(
                api.create_rule(target(eng), source_department_id=it.id, category=category),
                api.create_rule(target(it), source_department_id=eng.id, category=category),
                return_exceptions=True,
            )
            [created] = [response for response in responses if isinstance(response, AllocationRule)]
            [error] = [response for response in responses if isinstance(response, aio.AioRpcError)]
            assert chained(Refusal.of(error))[0] == created.id


class TestScopes:
    @pytest.fixture
    async def conny(
        self, acme: Entity, api_for: Callable[[Caller], RulesApi], caller: Callable[..., Caller]
    ) -> RulesApi:
        """RulesApi of a caller who is confined to ACME."""
        return api_for(caller("finance", subject="conny", entity_scope=[acme.id]))

    async def test_rule_is_visible_if_all_its_departments_are_covered(
        self, api: RulesApi, conny: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        mine = await api.create_rule(target(eng), name="mine", source_department_id=it.id)
        over = await api.create_rule(*even(eng, sales), name="over the edge")
        outside = await api.create_rule(target(eng), name="outside", source_department_id=sales.id, category="rent")
        assert await conny.list_rule_names() == ["mine"]
        assert await conny.list_rule_names(target_department_id=eng.id) == ["mine"]
        assert await conny.get_rule(mine) == mine
        assert (await conny.update_rule(mine, name="still mine")).name == "still mine"
        for rule in (over, outside):
            for call in (conny.get_rule, conny.delete_rule):
                error, unknown = await refusal(call(rule)), await refusal(call(UNKNOWN_ID))
                assert repr(error).replace(rule.id, UNKNOWN_ID) == repr(unknown)

    async def test_rule_can_only_have_covered_departments(
        self, conny: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        error = await refusal(conny.create_rule(*even(eng, sales)))
        assert set(error.fields) == {"targets[1].department_id"}
        error = await refusal(conny.create_rule(target(eng), source_department_id=sales.id))
        assert set(error.fields) == {"source_department_id"}
        rule = await conny.create_rule(target(eng))
        error = await refusal(conny.update_rule(rule, targets=even(it, sales)))
        assert set(error.fields) == {"targets[1].department_id"}

    async def test_chain_error_hides_departments_outside_scope(
        self, api: RulesApi, conny: RulesApi, it: Department, eng: Department, sales: Department
    ) -> None:
        await api.create_rule(target(sales), source_department_id=eng.id)
        error = await refusal(conny.create_rule(target(eng), source_department_id=it.id))
        assert chained(error)[1] == f"{it.id} → {eng.id} → …"
        assert sales.id not in error.message

    async def test_manager_reads_the_rules_of_the_department(
        self, api: RulesApi, api_for: Callable[[Caller], RulesApi], caller: Callable[..., Caller],
        it: Department, eng: Department,
    ) -> None:  # fmt: skip
        await api.create_rule(target(eng), name="eng")
        await api.create_rule(target(it), name="it")
        manager = api_for(caller("department_manager", department_scope=[eng.id]))
        assert await manager.list_rule_names() == ["eng"]
        assert await api_for(caller("department_manager", department_scope=[])).list_rule_names() == []

    async def test_other_tenant_finds_nothing(
        self, api: RulesApi, api_for: Callable[[Caller], RulesApi], caller: Callable[..., Caller], eng: Department
    ) -> None:
        rule = await api.create_rule(target(eng))
        other_tenant = api_for(caller("billing_admin", tenant=ids.new()))
        own = await other_tenant.create_rule(
            target(await other_tenant.create_department(await other_tenant.create_entity("OWN")))
        )
        assert await other_tenant.list_rule_names() == ["Rent"]
        assert await other_tenant.list_rule_names(target_department_id=eng.id) == []
        calls: list[Callable[[str], Awaitable[object]]] = [
            other_tenant.get_rule,
            other_tenant.delete_rule,
            lambda id: other_tenant.update_rule(id, name="X"),
        ]
        for call in calls:
            error, unknown = await refusal(call(rule.id)), await refusal(call(UNKNOWN_ID))
            assert repr(error).replace(rule.id, UNKNOWN_ID) == repr(unknown)
        theirs: list[Callable[[AllocationTarget], Awaitable[object]]] = [
            other_tenant.create_rule,
            lambda named: other_tenant.update_rule(own, targets=[named]),
        ]
        for named in theirs:
            error, unknown = await refusal(named(target(eng))), await refusal(named(target(NO_DEPARTMENT)))
            assert repr(error).replace(eng.id, NO_DEPARTMENT) == repr(unknown)
