"""Rules: what they say, which one is taken, and what a draft would have changed."""

from typing import Any

import pytest
from billing.approvals.v1 import approval_rule_service_pb2 as pb
from billing.approvals.v1 import approval_service_pb2
from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.approval_rule_pb2 import ApprovalRule, ApprovalRuleStep, BusinessHours
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from tests.approvals.conftest import APPROVE, ApprovalsApi, eur, step
from tests.budgets.usage import today
from tests.harness.callers import refusal

HOURS_OF_MARS = BusinessHours(time_zone="Mars/X", start="09:00", end="18:00")


def names(asked: Approval) -> list[str]:
    return [rule.name for rule in asked.rules]


async def taken(api: ApprovalsApi, amount: str | None = "100.00", **given: Any) -> list[str]:
    """The rules that a request would take."""
    return names(await api.ask(amount=amount, validate_only=True, **given))


class TestChoice:
    async def test_the_highest_priority_that_matches_then_the_narrower_range_then_the_older(
        self, api: ApprovalsApi
    ) -> None:
        carla = step("C", "carla")
        await api.rule(carla, name="wide", amount_up_to=eur("1000"))
        await api.rule(carla, name="narrow", amount_up_to=eur("500"))
        await api.rule(carla, name="younger", amount_up_to=eur("500"))
        await api.rule(carla, name="first", priority=1, amount_above=eur("200"), amount_up_to=eur("300"))
        assert await taken(api, "200.00") == ["narrow"]
        assert await taken(api, "200.01") == ["first"]
        assert await taken(api, "300.00") == ["first"]
        assert await taken(api, "501.00") == ["wide"]

    async def test_a_ladder_goes_through_every_level_up_to_the_amount(self, api: ApprovalsApi) -> None:
        for name, above in (("chief", "10000"), ("head", "1000"), ("manager", None)):
            bounds = {"amount_above": eur(above)} if above else {"amount_up_to": eur("1000")}
            await api.rule(step(name, name), name=name, ladder="purchases", **bounds)
        assert await taken(api, "1000.00") == ["manager"]
        assert await taken(api, "1000.01") == ["manager", "head"]
        asked = await api.ask(amount="10000.01")
        assert names(asked) == ["manager", "head", "chief"]
        for who in ("manager", "head"):
            assert (await api.act(who, asked)).state == Approval.PENDING
            assert await api.inbox(who) == []
        assert (await api.act("chief", asked)).state == Approval.APPROVED

    async def test_amounts_are_compared_in_the_currency_of_the_rule(self, api: ApprovalsApi) -> None:
        await api.rule(step("C", "carla"), name="large", amount_above=eur("100"))
        await api.rule(step("C", "carla"), name="rest", is_default=True)
        request = api.request(None, validate_only=True)
        request.amount.currency_code, request.amount.amount = "USD", "150.00"
        alice = api.of("alice", "procurement")
        refused = await refusal(alice.call(api.stubs.approvals.CreateApproval, request))
        assert (refused.reason, refused.metadata["to_currency_code"]) == ("RATE_MISSING", "EUR")
        await api.budgets.set_rates(f"{today()} EUR/USD 2")
        assert names(await alice.call(api.stubs.approvals.CreateApproval, request)) == ["rest"]
        request.amount.amount, request.request_id = "200.02", "other"
        seen = await alice.call(api.stubs.approvals.CreateApproval, request)
        assert names(seen) == ["large"]
        assert "200.02 USD are 100.01 EUR today" in seen.rules[0].reason

    async def test_a_condition_is_looked_at(self, api: ApprovalsApi) -> None:
        await api.rule(
            step("C", "carla"), name="new", condition="attributes['supplier'] == 'new' && amount_minor > 10000"
        )
        await api.rule(step("C", "carla"), name="rest", is_default=True)
        assert await taken(api, "100.01", attributes={"supplier": "new"}) == ["new"]
        assert await taken(api, "100.00", attributes={"supplier": "new"}) == ["rest"]
        assert await taken(api, "100.01") == ["rest"]  # what is not there does not match

    async def test_a_condition_that_would_take_for_ever_does_not_hold(self, api: ApprovalsApi) -> None:
        endless = "true"
        for name in "abcdef":
            endless = f"attributes.all({name}, {endless})"
        await api.rule(step("C", "carla"), name="endless", condition=endless)
        await api.rule(step("C", "carla"), name="rest", is_default=True)
        many = {f"attribute {number}": "x" for number in range(50)}
        assert await taken(api, "1.00", attributes=many) == ["rest"]
        assert await taken(api, "999999999999.00", attributes={}) == ["endless"]

    async def test_places_and_categories_are_looked_at_with_what_is_above(self, api: ApprovalsApi) -> None:
        top = api.budgets.entity_id
        below = await api.budgets.company("BELOW", parent_id=top)
        other = await api.budgets.company("OTHER")
        await api.rule(step("C", "carla"), name="here", entity_ids=[top], categories=["cloud"])
        await api.rule(step("C", "carla"), name="rest", is_default=True)
        for entity_id, category, rule in (
            (top, "cloud", "here"),
            (below, "cloud", "here"),
            (below, "", "rest"),
            (other, "cloud", "rest"),
        ):
            assert await taken(api, entity_id=entity_id, category=category) == [rule]

    async def test_without_a_rule_it_is_refused_and_says_why(self, api: ApprovalsApi) -> None:
        await api.rule(step("C", "carla"), request_type=Approval.INVOICE)
        refused = await refusal(api.ask())
        assert (refused.code, refused.reason, refused.metadata["rules"]) == (
            StatusCode.FAILED_PRECONDITION, "NO_RULE_MATCHES", "1",
        )  # fmt: skip

    async def test_of_a_rule_that_approves_by_itself_nobody_is_asked(self, api: ApprovalsApi) -> None:
        await api.rule(name="small", auto_approve=True, amount_up_to=eur("50"))
        budget = await api.budgets.open("100.00")
        asked = await api.ask(amount="50.00", budget_id=budget.id)
        assert (asked.state, asked.decided_by) == (Approval.APPROVED, "service:approvals")
        await api.settled(asked, Approval.COMMITTED)

    async def test_who_would_have_nobody_to_ask_is_refused_at_once(self, api: ApprovalsApi) -> None:
        await api.rule(step("Manager", "+department_manager"))
        refused = await refusal(api.ask())
        assert (refused.reason, refused.metadata["step"]) == ("APPROVER_MISSING", "Manager")
        assert "the request is about no department" in refused.message

    async def test_managers_and_controllers_are_found(self, api: ApprovalsApi) -> None:
        company = await api.budgets.company("CTRL", controller_user_id="conny")
        below = await api.budgets.company("CTRL2", parent_id=company)
        await api.rule(step("Controller", "+entity_controller"))
        asked = await api.ask(entity_id=below, validate_only=True)
        assert [(seat.user_id, seat.why) for seat in asked.steps[0].seats] == [
            ("conny", "they are the controller of the entity")
        ]


class TestSaying:
    @pytest.mark.parametrize(
        ("given", "fields"),
        [
            ({"steps": []}, {"steps"}),
            ({"auto_approve": True}, {"steps"}),
            ({"amount_above": eur("5"), "amount_up_to": eur("5")}, {"amount_up_to"}),
            ({"condition": "amount_minor > 'x'"}, {"condition"}),
            ({"condition": "amount_minor"}, {"condition"}),
            ({"is_default": True, "categories": ["x"]}, {"is_default"}),
            ({"ladder": "l"}, {"amount_above"}),
            ({"steps": [step("S", "a", mode=Approval.QUORUM)]}, {"steps[0].quorum"}),
            ({"steps": [step("S", "a", mode=Approval.QUORUM, quorum=2)]}, {"steps[0].quorum"}),
            ({"steps": [step("S", "a", "a")]}, {"steps[0].approvers"}),
            ({"business_hours": HOURS_OF_MARS}, {"business_hours.time_zone"}),
            ({"business_hours": BusinessHours(time_zone="UTC", start="09:00", end="09:00")}, {"business_hours.end"}),
        ],
    )  # fmt: skip
    async def test_what_does_not_go_together_is_named(
        self, api: ApprovalsApi, given: dict[str, Any], fields: set[str]
    ) -> None:
        steps: list[ApprovalRuleStep] = given.pop("steps", [step("S", "a")])
        assert set((await refusal(api.rule(*steps, **given))).fields) == fields

    async def test_a_bad_condition_is_told_with_its_place(self, api: ApprovalsApi) -> None:
        refused = await refusal(api.rule(step("S", "a"), condition="amount_minor > 1 &&\n  suplier == 'x'"))
        assert refused.fields == {"condition": "line 2, column 3: undeclared reference to 'suplier' (in container '')"}

    async def test_every_change_is_a_version_and_requests_stay_with_theirs(self, api: ApprovalsApi) -> None:
        rule = await api.rule(step("C", "carla"), name="one")
        asked = await api.ask()
        update = pb.UpdateApprovalRuleRequest(id=rule.id, steps=[step("C", "conny")], etag=rule.etag)
        changed = await api.admin.call(api.stubs.rules.UpdateApprovalRule, update)
        assert (changed.rule_version, changed.name) == (2, "one")
        assert (await refusal(api.admin.call(api.stubs.rules.UpdateApprovalRule, update))).reason == "ETAG_MISMATCH"
        request = pb.GetApprovalRuleRequest(id=rule.id, rule_version=1)
        before = await api.admin.call(api.stubs.rules.GetApprovalRule, request)
        assert before.steps[0].approvers[0].user_id == "carla"
        assert (await api.act("carla", asked)).state == Approval.APPROVED
        newer = await api.ask()
        assert (newer.rules[0].rule_version, newer.steps[0].seats[0].user_id) == (2, "conny")

    async def test_bounds_are_cleared_and_changed(self, api: ApprovalsApi) -> None:
        rule = await api.rule(step("C", "carla"), amount_above=eur("10"), amount_up_to=eur("20"))
        change = api.stubs.rules.UpdateApprovalRule
        update = pb.UpdateApprovalRuleRequest(id=rule.id, update_mask=FieldMask(paths=["amount_above"]))
        cleared = await api.admin.call(change, update)
        assert (cleared.HasField("amount_above"), cleared.amount_up_to.amount) == (False, "20.00")
        usd = pb.UpdateApprovalRuleRequest(id=rule.id)
        usd.amount_above.currency_code, usd.amount_above.amount = "USD", "1.00"
        assert list((await refusal(api.admin.call(change, usd))).fields) == ["amount_above"]

    async def test_paused_and_deleted_ones_are_not_taken(self, api: ApprovalsApi) -> None:
        rule = await api.rule(step("C", "carla"))
        update = pb.UpdateApprovalRuleRequest(id=rule.id, state=ApprovalRule.PAUSED)
        assert (await api.admin.call(api.stubs.rules.UpdateApprovalRule, update)).state == ApprovalRule.PAUSED
        assert (await refusal(api.ask())).reason == "NO_RULE_MATCHES"
        update = pb.UpdateApprovalRuleRequest(id=rule.id, state=ApprovalRule.ACTIVE)
        await api.admin.call(api.stubs.rules.UpdateApprovalRule, update)
        assert await taken(api) == ["rule"]
        gone = await api.admin.call(api.stubs.rules.DeleteApprovalRule, pb.DeleteApprovalRuleRequest(id=rule.id))
        assert gone.state == ApprovalRule.DELETED
        assert (await refusal(api.ask())).reason == "NO_RULE_MATCHES"
        assert (
            await refusal(api.admin.call(api.stubs.rules.UpdateApprovalRule, update))
        ).reason == "APPROVAL_RULE_STATE"

    async def test_a_type_has_one_default_rule(self, api: ApprovalsApi) -> None:
        first = await api.rule(step("C", "carla"), is_default=True)
        refused = await refusal(api.rule(step("C", "carla"), is_default=True))
        assert (refused.reason, refused.metadata["rule_id"]) == ("DEFAULT_RULE_TAKEN", first.id)
        await api.rule(step("C", "carla"), is_default=True, request_type=Approval.INVOICE, name="invoices")
        assert await taken(api, request_type=Approval.INVOICE) == ["invoices"]

    async def test_an_entity_that_is_not_there_is_refused(self, api: ApprovalsApi) -> None:
        refused = await refusal(api.rule(step("C", "carla"), entity_ids=["ent_" + "0" * 32]))
        assert refused.reason == "ENTITY_NOT_FOUND"

    async def test_they_are_for_administrators(self, api: ApprovalsApi) -> None:
        call = api.of("fiona", "finance").call(api.stubs.rules.ListApprovalRules, pb.ListApprovalRulesRequest())
        assert (await refusal(call)).reason == "PERMISSION_MISSING"


class TestSimulation:
    async def test_a_draft_is_tried_on_the_requests_of_the_past(self, api: ApprovalsApi) -> None:
        rule = await api.rule(step("C", "carla"), name="today")
        for amount in ("10.00", "50.00", "90.00"):
            await api.ask(amount=amount)
        draft = pb.CreateApprovalRuleRequest(name="draft", priority=5, auto_approve=True, amount_up_to=eur("50"))
        simulate = api.stubs.rules.SimulateRules
        told = await api.admin.call(simulate, pb.SimulateRulesRequest(rule=draft))
        assert (told.considered_count, told.changed_count, told.newly_auto_approved_count) == (3, 2, 2)
        assert {change.amount.amount for change in told.changes} == {"10.00", "50.00"}
        change = told.changes[0]
        assert [one.name for one in change.before.rules] == ["today"]
        assert ([one.name for one in change.after.rules], change.after.auto_approved) == (["draft"], True)
        instead = await api.admin.call(simulate, pb.SimulateRulesRequest(rule=draft, replaces_rule_id=rule.id))
        assert (instead.changed_count, instead.newly_refused_count) == (3, 1)
        listed = await api.admin.call(api.stubs.rules.ListApprovalRules, pb.ListApprovalRulesRequest())
        assert [one.name for one in listed.approval_rules] == ["today"]


class TestBatches:
    async def test_each_is_decided_by_itself(self, api: ApprovalsApi) -> None:
        await api.rule(step("C", "carla"))
        mine, done = await api.ask(), await api.ask()
        await api.act("carla", done)
        request = approval_service_pb2.BatchActOnApprovalsRequest(
            ids=[mine.id, done.id, "apr_" + "0" * 32], action=APPROVE, request_id="batch-1"
        )
        call = api.stubs.approvals.BatchActOnApprovals
        told = await api.of("carla").call(call, request)
        assert (told.decided_count, told.refused_count) == (1, 2)
        assert [result.WhichOneof("outcome") for result in told.results] == ["approval", "refusal", "refusal"]
        assert [result.refusal.reason for result in told.results[1:]] == ["APPROVAL_STATE", "APPROVAL_NOT_FOUND"]
        again = await api.of("carla").call(call, request)
        assert (again.decided_count, again.results[0].approval.state) == (1, Approval.APPROVED)
