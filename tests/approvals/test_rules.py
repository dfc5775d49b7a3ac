"""Approval rules: which one applies, validation, versions and simulation."""

from typing import Any

import pytest
from billing.approvals.v1 import approval_rule_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.approval_rule_pb2 import ApprovalRule, ApprovalRuleStep, BusinessHours
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from tests.approvals.conftest import ApprovalsApi, eur, step
from tests.budgets.allocated_costs import today
from tests.harness.callers import refusal

HOURS_ON_MARS = BusinessHours(time_zone="Mars/X", start="09:00", end="18:00")


def rule_names(approval: Approval) -> list[str]:
    return [rule.name for rule in approval.rules]


async def applied_rules(api: ApprovalsApi, amount: str | None = "100.00", **fields: Any) -> list[str]:
    """The names of the rules that would apply to a request."""
    return rule_names(await api.submit(amount=amount, validate_only=True, **fields))


class TestRouting:
    async def test_rules_are_ranked_by_priority_then_narrow_range_then_age(self, api: ApprovalsApi) -> None:
        carla = step("C", "carla")
        await api.create_rule(carla, name="wide", amount_up_to=eur("1000"))
        await api.create_rule(carla, name="narrow", amount_up_to=eur("500"))
        await api.create_rule(carla, name="younger", amount_up_to=eur("500"))
        await api.create_rule(carla, name="first", priority=1, amount_above=eur("200"), amount_up_to=eur("300"))
        assert await applied_rules(api, "200.00") == ["narrow"]
        assert await applied_rules(api, "200.01") == ["first"]
        assert await applied_rules(api, "300.00") == ["first"]
        assert await applied_rules(api, "501.00") == ["wide"]

    async def test_every_level_of_a_ladder_up_to_the_amount_applies(self, api: ApprovalsApi) -> None:
        for name, above in (("chief", "10000"), ("head", "1000"), ("manager", None)):
            bounds = {"amount_above": eur(above)} if above else {"amount_up_to": eur("1000")}
            await api.create_rule(step(name, name), name=name, ladder="purchases", **bounds)
        assert await applied_rules(api, "1000.00") == ["manager"]
        assert await applied_rules(api, "1000.01") == ["manager", "head"]
        approval = await api.submit(amount="10000.01")
        assert rule_names(approval) == ["manager", "head", "chief"]
        for who in ("manager", "head"):
            assert (await api.act(who, approval)).state == Approval.PENDING
            assert await api.to_decide(who) == []
        assert (await api.act("chief", approval)).state == Approval.APPROVED

    async def test_amounts_are_compared_in_the_currency_of_the_rule(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("C", "carla"), name="large", amount_above=eur("100"))
        await api.create_rule(step("C", "carla"), name="rest", is_default=True)
        request = api.new_request(None, validate_only=True)
        request.amount.currency_code, request.amount.amount = "USD", "150.00"
        alice = api.user("alice", "procurement")
        error = await refusal(alice.call(api.stubs.approvals.CreateApproval, request))
        assert (error.reason, error.metadata["to_currency_code"]) == ("RATE_MISSING", "EUR")
        await api.budgets.set_rates(f"{today()} EUR/USD 2")
        assert rule_names(await alice.call(api.stubs.approvals.CreateApproval, request)) == ["rest"]
        request.amount.amount, request.request_id = "200.02", "other"
        preview = await alice.call(api.stubs.approvals.CreateApproval, request)
        assert rule_names(preview) == ["large"]
        assert "200.02 USD is 100.01 EUR at today's rate" in preview.rules[0].reason

    async def test_condition_must_be_true(self, api: ApprovalsApi) -> None:
        await api.create_rule(
            step("C", "carla"), name="new", condition="attributes['supplier'] == 'new' && amount_minor > 10000"
        )
        await api.create_rule(step("C", "carla"), name="rest", is_default=True)
        assert await applied_rules(api, "100.01", attributes={"supplier": "new"}) == ["new"]
        assert await applied_rules(api, "100.00", attributes={"supplier": "new"}) == ["rest"]
        assert await applied_rules(api, "100.01") == ["rest"]  # a missing attribute does not match

    async def test_entities_match_with_their_descendants_and_categories_exactly(self, api: ApprovalsApi) -> None:
        top = api.budgets.entity_id
        below = await api.budgets.company("BELOW", parent_id=top)
        other = await api.budgets.company("OTHER")
        await api.create_rule(step("C", "carla"), name="here", entity_ids=[top], categories=["cloud"])
        await api.create_rule(step("C", "carla"), name="rest", is_default=True)
        for entity_id, category, rule in (
            (top, "cloud", "here"),
            (below, "cloud", "here"),
            (below, "", "rest"),
            (other, "cloud", "rest"),
        ):
            assert await applied_rules(api, entity_id=entity_id, category=category) == [rule]

    async def test_request_without_matching_rule_is_rejected(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("C", "carla"), request_type=Approval.INVOICE)
        error = await refusal(api.submit())
        assert (error.code, error.reason, error.metadata["rules"]) == (
            StatusCode.FAILED_PRECONDITION, "NO_RULE_MATCHES", "1",
        )  # fmt: skip

    async def test_condition_that_cannot_be_evaluated_is_named_with_its_rule(self, api: ApprovalsApi) -> None:
        condition = 'double(attributes["x"]) > 5.0'
        await api.create_rule(step("C", "carla"), name="large", condition=condition)
        await api.create_rule(step("C", "carla"), name="broken", condition="1/0 == 1")
        await api.create_rule(step("C", "carla"), name="false", condition="1 == 2")
        message = (await refusal(api.submit(attributes={"x": "abc"}))).message
        assert "Conditions that could not be evaluated: 'large' (" in message
        assert ("'broken' (" in message, "divide by zero" in message, "'false'" in message) == (True, True, False)
        await api.create_rule(step("C", "carla"), name="rest", is_default=True)
        (applied,) = (await api.submit(attributes={"x": "abc"})).rules
        assert "'broken' (" in applied.reason
        simulated = await api.admin.call(
            api.stubs.rules.SimulateRules,
            pb.SimulateRulesRequest(
                rule=pb.CreateApprovalRuleRequest(name="draft", auto_approve=True, condition=condition)
            ),
        )
        assert (simulated.considered_count, simulated.failed_count) == (1, 1)

    async def test_rule_with_auto_approve_approves_immediately(self, api: ApprovalsApi) -> None:
        await api.create_rule(name="small", auto_approve=True, amount_up_to=eur("50"))
        budget = await api.budgets.open("100.00")
        approval = await api.submit(amount="50.00", budget_id=budget.id)
        assert (approval.state, approval.decided_by) == (Approval.APPROVED, "service:approvals")
        await api.wait_for_funds(approval, Approval.COMMITTED)

    async def test_request_whose_step_has_no_approver_is_rejected(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Manager", "+department_manager"))
        error = await refusal(api.submit())
        assert (error.reason, error.metadata["step"]) == ("APPROVER_MISSING", "Manager")
        assert "the request has no department" in error.message

    async def test_controller_of_an_ancestor_is_the_approver(self, api: ApprovalsApi) -> None:
        company = await api.budgets.company("CTRL", controller_user_id="conny")
        below = await api.budgets.company("CTRL2", parent_id=company)
        await api.create_rule(step("Controller", "+entity_controller"))
        approval = await api.submit(entity_id=below, validate_only=True)
        assert [(seat.user_id, seat.why) for seat in approval.steps[0].seats] == [("conny", "controller of the entity")]


class TestDefinition:
    @pytest.mark.parametrize(
        ("fields", "invalid"),
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
            ({"business_hours": HOURS_ON_MARS}, {"business_hours.time_zone"}),
            ({"business_hours": BusinessHours(time_zone="UTC", start="09:00", end="09:00")}, {"business_hours.end"}),
        ],
    )  # fmt: skip
    async def test_invalid_fields_are_all_named(
        self, api: ApprovalsApi, fields: dict[str, Any], invalid: set[str]
    ) -> None:
        steps: list[ApprovalRuleStep] = fields.pop("steps", [step("S", "a")])
        assert set((await refusal(api.create_rule(*steps, **fields))).fields) == invalid

    async def test_condition_with_hundreds_of_errors_is_refused_with_those_that_fit(self, api: ApprovalsApi) -> None:
        error = await refusal(api.create_rule(step("S", "a"), condition="é" * 300))
        assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert error.fields.keys() == {"condition"}
        assert error.metadata == {"truncated": "true"}

    async def test_condition_error_has_line_and_column(self, api: ApprovalsApi) -> None:
        error = await refusal(api.create_rule(step("S", "a"), condition="amount_minor > 1 &&\n  suplier == 'x'"))
        assert error.fields == {"condition": "line 2, column 3: undeclared reference to 'suplier' (in container '')"}

    async def test_every_change_creates_a_version_and_pending_requests_keep_theirs(self, api: ApprovalsApi) -> None:
        rule = await api.create_rule(step("C", "carla"), name="one")
        approval = await api.submit()
        update = pb.UpdateApprovalRuleRequest(id=rule.id, steps=[step("C", "conny")], etag=rule.etag)
        changed = await api.admin.call(api.stubs.rules.UpdateApprovalRule, update)
        assert (changed.rule_version, changed.name) == (2, "one")
        assert (await refusal(api.admin.call(api.stubs.rules.UpdateApprovalRule, update))).reason == "ETAG_MISMATCH"
        request = pb.GetApprovalRuleRequest(id=rule.id, rule_version=1)
        before = await api.admin.call(api.stubs.rules.GetApprovalRule, request)
        assert before.steps[0].approvers[0].user_id == "carla"
        assert (await api.act("carla", approval)).state == Approval.APPROVED
        newer = await api.submit()
        assert (newer.rules[0].rule_version, newer.steps[0].seats[0].user_id) == (2, "conny")

    async def test_bounds_can_be_cleared_but_not_mixed_between_currencies(self, api: ApprovalsApi) -> None:
        rule = await api.create_rule(step("C", "carla"), amount_above=eur("10"), amount_up_to=eur("20"))
        change = api.stubs.rules.UpdateApprovalRule
        update = pb.UpdateApprovalRuleRequest(id=rule.id, update_mask=FieldMask(paths=["amount_above"]))
        cleared = await api.admin.call(change, update)
        assert (cleared.HasField("amount_above"), cleared.amount_up_to.amount) == (False, "20.00")
        usd = pb.UpdateApprovalRuleRequest(id=rule.id)
        usd.amount_above.currency_code, usd.amount_above.amount = "USD", "1.00"
        assert list((await refusal(api.admin.call(change, usd))).fields) == ["amount_above"]

    async def test_paused_and_deleted_rules_do_not_apply(self, api: ApprovalsApi) -> None:
        rule = await api.create_rule(step("C", "carla"))
        update = pb.UpdateApprovalRuleRequest(id=rule.id, state=ApprovalRule.PAUSED)
        assert (await api.admin.call(api.stubs.rules.UpdateApprovalRule, update)).state == ApprovalRule.PAUSED
        assert (await refusal(api.submit())).reason == "NO_RULE_MATCHES"
        update = pb.UpdateApprovalRuleRequest(id=rule.id, state=ApprovalRule.ACTIVE)
        await api.admin.call(api.stubs.rules.UpdateApprovalRule, update)
        assert await applied_rules(api) == ["rule"]
        gone = await api.admin.call(api.stubs.rules.DeleteApprovalRule, pb.DeleteApprovalRuleRequest(id=rule.id))
        assert gone.state == ApprovalRule.DELETED
        assert (await refusal(api.submit())).reason == "NO_RULE_MATCHES"
        assert (
            await refusal(api.admin.call(api.stubs.rules.UpdateApprovalRule, update))
        ).reason == "APPROVAL_RULE_STATE"

    async def test_request_type_has_one_default_rule(self, api: ApprovalsApi) -> None:
        first = await api.create_rule(step("C", "carla"), is_default=True)
        error = await refusal(api.create_rule(step("C", "carla"), is_default=True))
        assert (error.reason, error.metadata["rule_id"]) == ("DEFAULT_RULE_TAKEN", first.id)
        await api.create_rule(step("C", "carla"), is_default=True, request_type=Approval.INVOICE, name="invoices")
        assert await applied_rules(api, request_type=Approval.INVOICE) == ["invoices"]

    async def test_unknown_entity_is_rejected(self, api: ApprovalsApi) -> None:
        error = await refusal(api.create_rule(step("C", "carla"), entity_ids=["ent_" + "0" * 32]))
        assert error.reason == "ENTITY_NOT_FOUND"

    async def test_rules_are_for_administrators_only(self, api: ApprovalsApi) -> None:
        call = api.user("fiona", "finance").call(api.stubs.rules.ListApprovalRules, pb.ListApprovalRulesRequest())
        assert (await refusal(call)).reason == "PERMISSION_MISSING"


class TestSimulation:
    async def test_violations_of_the_draft_have_its_path(self, api: ApprovalsApi) -> None:
        draft = pb.CreateApprovalRuleRequest(name="draft", auto_approve=True, steps=[step("C", "carla")], condition="1")
        call = api.admin.call(api.stubs.rules.SimulateRules, pb.SimulateRulesRequest(rule=draft))
        assert set((await refusal(call)).fields) == {"rule.steps", "rule.condition"}

    async def test_draft_is_simulated_on_past_requests(self, api: ApprovalsApi) -> None:
        rule = await api.create_rule(step("C", "carla"), name="today")
        for amount in ("10.00", "50.00", "90.00"):
            await api.submit(amount=amount)
        draft = pb.CreateApprovalRuleRequest(name="draft", priority=5, auto_approve=True, amount_up_to=eur("50"))
        simulate = api.stubs.rules.SimulateRules
        response = await api.admin.call(simulate, pb.SimulateRulesRequest(rule=draft))
        assert (response.considered_count, response.changed_count, response.newly_auto_approved_count) == (3, 2, 2)
        assert {change.amount.amount for change in response.changes} == {"10.00", "50.00"}
        change = response.changes[0]
        assert [one.name for one in change.before.rules] == ["today"]
        assert ([one.name for one in change.after.rules], change.after.auto_approved) == (["draft"], True)
        instead = await api.admin.call(simulate, pb.SimulateRulesRequest(rule=draft, replaces_rule_id=rule.id))
        assert (instead.changed_count, instead.newly_refused_count) == (3, 1)
        listed = await api.admin.call(api.stubs.rules.ListApprovalRules, pb.ListApprovalRulesRequest())
        assert [one.name for one in listed.approval_rules] == ["today"]
