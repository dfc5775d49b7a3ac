"""Of a budget above that is out of scope, callers read only that it exists, and the verdict."""

from collections.abc import Callable
from uuid import uuid4

import pytest
from billing.budgets.v1 import budget_service_pb2 as budgets_pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.charge_pb2 import Availability
from google.protobuf.message import Message
from grpc import StatusCode

from services.budgets import domain
from services.budgets.domain.entries import AvailabilityVerdict
from tests.budgets.allocated_costs import CostEvents, allocation, unbudgeted
from tests.budgets.budgets_api import BudgetsApi, eur, line
from tests.budgets.rolling import noon, roll
from tests.budgets.test_late_postings import YESTERDAY, charge_late, last_month
from tests.budgets.test_period_locks import lock
from tests.harness.callers import Caller, Refusal, refusal

SECRET = "Group secret"


class Tree:
    """A budget of a department below a budget of the group; a manager of the department, and one of another."""

    group: Budget
    team: Budget
    manager: BudgetsApi
    stranger: BudgetsApi

    def assert_hidden(self, reply: Message | Refusal) -> None:
        text = str(reply)
        assert SECRET not in text
        assert self.group.id not in text
        assert "150.00" not in text  # what is available of the group


@pytest.fixture
async def tree(api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]) -> Tree:
    tree = Tree()
    company = await api.company()
    department, other = [await api.department(company, code) for code in ("ENG", "OPS")]
    tree.group = await api.open("150.00", name=SECRET, entity_id=company)
    tree.team = await api.open(
        "500.00", name="Team", entity_id=company, department_id=department, parent_id=tree.group.id
    )
    tree.manager = api_for(caller("department_manager", subject="mia", department_scope=[department]))
    tree.stranger = api_for(caller("department_manager", subject="sam", department_scope=[other]))
    return tree


class TestRefusals:
    async def test_charge_that_the_budget_of_the_group_refuses(self, tree: Tree) -> None:
        error = await refusal(tree.manager.charge(tree.team, "200.00"))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "BUDGET_EXCEEDED")
        assert error.message == "A budget above has too little available."
        assert error.metadata == {"requested": "200.00", "currency_code": "EUR"}
        tree.assert_hidden(error)

    async def test_hold_and_batch(self, tree: Tree) -> None:
        tree.assert_hidden(await refusal(tree.manager.hold(tree.team, "200.00")))
        batch = await tree.manager.batch(line(tree.team, "200.00"))
        assert batch.results[0].refusal.reason == "BUDGET_EXCEEDED"
        tree.assert_hidden(batch)
        atomic = await refusal(tree.manager.batch(line(tree.team, "1.00"), line(tree.team, "200.00"), atomic=True))
        assert (atomic.reason, atomic.metadata["line_reason"]) == ("BATCH_REFUSED", "BUDGET_EXCEEDED")
        tree.assert_hidden(atomic)

    async def test_budget_of_the_group_is_closed(self, api: BudgetsApi, tree: Tree) -> None:
        await api.close(tree.group)
        error = await refusal(tree.manager.charge(tree.team, "1.00"))
        assert (error.reason, error.metadata) == ("BUDGET_STATE", {})
        tree.assert_hidden(error)

    async def test_period_of_the_group_is_locked(
        self, api: BudgetsApi, tree: Tree, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        subsidiary = await api.company("SUB", parent_id=tree.group.entity_id)
        tree.group = await last_month(api, "150", name=SECRET, entity_id=tree.group.entity_id)
        team = await last_month(api, "100", parent_id=tree.group.id, entity_id=subsidiary)
        manager = api_for(caller("finance", subject="tom", entity_scope=[subsidiary]))
        await lock(api, tree.group.entity_id)
        error = await refusal(charge_late(manager, team, "1"))
        assert (error.reason, error.metadata) == ("PERIOD_LOCKED", {})
        request = ledger_pb.CheckAvailabilityRequest(id=team.id, amount=eur("1"), charge_time=noon(YESTERDAY))
        reply = await manager.who.call(manager.stubs.ledger.CheckAvailability, request)
        assert (reply.verdict, reply.explanation) == (Availability.PERIOD_LOCKED, error.message)
        tree.assert_hidden(error)
        tree.assert_hidden(reply)

    async def test_next_period_of_the_group_has_too_little_for_the_moved_holds(
        self, api: BudgetsApi, tree: Tree, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        department = tree.team.department_id
        finance = api_for(caller("finance", subject="tom", department_scope=[department]))
        team = await api.open(
            "100.00", entity_id=tree.team.entity_id, department_id=department, parent_id=tree.group.id, recurring=False
        )
        await api.hold(team, "40.00")
        not_rolled = await refusal(roll(finance, team))
        assert (not_rolled.reason, not_rolled.metadata) == ("PARENT_NOT_ROLLED_OVER", {})
        tree.group = (await roll(api, tree.group, next_amount=eur("30.00"))).opened
        error = await refusal(roll(finance, team))
        assert (error.reason, error.metadata) == ("BUDGET_EXCEEDED", {"requested": "40.00", "currency_code": "EUR"})
        tree.assert_hidden(error)
        assert (await refusal(roll(api, team))).metadata["budget_id"] == tree.group.id

    async def test_own_budget_is_named(self, api: BudgetsApi, tree: Tree) -> None:
        await api.update(tree.group, amount=eur("9000.00"))
        error = await refusal(tree.manager.charge(tree.team, "600.00"))
        assert (error.metadata["budget_id"], error.metadata["available"]) == (tree.team.id, "500.00")

    async def test_caller_without_a_scope_gets_the_numbers(self, api: BudgetsApi, tree: Tree) -> None:
        error = await refusal(api.charge(tree.team, "200.00"))
        assert (error.metadata["budget_id"], error.metadata["available"]) == (tree.group.id, "150.00")


class TestReplies:
    async def test_chain_of_a_charge_its_replay_and_its_lookup(self, api: BudgetsApi, tree: Tree) -> None:
        charge = await tree.manager.charge(tree.team, "10.00", "k1")
        assert [(each.budget_id, each.out_of_scope) for each in charge.chain] == [(tree.team.id, False), ("", True)]
        assert charge.chain[1].ByteSize() == 2  # nothing but `out_of_scope`
        tree.assert_hidden(charge)
        assert await tree.manager.charge(tree.team, "10.00", "k1") == charge
        lookup = ledger_pb.GetChargeRequest(request_id="k1")
        assert await tree.manager.who.call(tree.manager.stubs.ledger.GetCharge, lookup) == charge
        complete = await api.who.call(api.stubs.ledger.GetCharge, lookup)
        assert (complete.chain[1].name, complete.chain[1].available_before.amount) == (SECRET, "150.00")

    async def test_charge_of_a_caller_without_a_scope_is_looked_up_with_one(self, api: BudgetsApi, tree: Tree) -> None:
        await api.charge(tree.team, "10.00", "k2")
        lookup = ledger_pb.GetChargeRequest(request_id="k2")
        tree.assert_hidden(await tree.manager.who.call(tree.manager.stubs.ledger.GetCharge, lookup))

    async def test_refund_and_batch(self, tree: Tree) -> None:
        charge = await tree.manager.charge(tree.team, "10.00")
        refund = await tree.manager.refund(charge, "4.00")
        assert [each.out_of_scope for each in refund.chain] == [False, True]
        tree.assert_hidden(refund)
        tree.assert_hidden(await tree.manager.batch(line(tree.team, "1.00")))

    async def test_foreign_charge_is_not_found_like_an_unknown_one(self, api: BudgetsApi, tree: Tree) -> None:
        await api.charge(tree.team, "10.00", "k3")
        replies = []
        for key in ("k3", "unknown"):
            request = ledger_pb.GetChargeRequest(request_id=key)
            error = await refusal(tree.stranger.who.call(tree.stranger.stubs.ledger.GetCharge, request))
            replies.append((error.code, error.reason, error.message.replace(key, "KEY"), set(error.metadata)))
        assert replies[0] == replies[1]
        assert replies[0][1] == "CHARGE_NOT_FOUND"


class TestAvailability:
    @pytest.mark.parametrize(
        ("amount", "verdict", "explanation"),
        [
            ("200.00", Availability.EXCEEDED, "A budget above has too little available."),
            ("10.00", Availability.AVAILABLE, "It would be accepted; a budget above leaves the least room."),
        ],
    )
    async def test_budget_of_the_group_refuses_the_amount(
        self, tree: Tree, amount: str, verdict: Availability.Verdict.ValueType, explanation: str
    ) -> None:
        check = tree.manager.stubs.ledger.CheckAvailability
        request = ledger_pb.CheckAvailabilityRequest(
            id=tree.team.id, amount=eur(amount), lines=[ledger_pb.CheckLine(amount=eur(amount))]
        )
        reply = await tree.manager.who.call(check, request)
        assert (reply.verdict, reply.explanation, reply.binding_budget_id) == (verdict, explanation, "")
        assert [each.out_of_scope for each in reply.chain] == [False, True]
        assert not reply.by_policy
        assert reply.lines[0].binding_budget_id == ""
        tree.assert_hidden(reply)

    async def test_next_period_of_the_group_can_not_be_corrected(
        self, api: BudgetsApi, tree: Tree, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        subsidiary = await api.company("SUB", parent_id=tree.group.entity_id)
        group = await last_month(api, "150", name=SECRET, entity_id=tree.group.entity_id)
        team = await last_month(api, "500", parent_id=group.id, entity_id=subsidiary)
        tree.group = (await roll(api, group, early=False)).opened
        await api.charge(tree.group, "300")
        manager = api_for(caller("finance", subject="tom", entity_scope=[subsidiary]))
        request = ledger_pb.CheckAvailabilityRequest(id=team.id, amount=eur("1"), charge_time=noon(YESTERDAY))
        reply = await manager.who.call(manager.stubs.ledger.CheckAvailability, request)
        assert (reply.verdict, reply.explanation) == (
            Availability.EXCEEDED, "A budget above has too little available.",
        )  # fmt: skip
        tree.assert_hidden(reply)
        tree.assert_hidden(await refusal(charge_late(manager, team, "1")))

    def test_every_verdict_has_a_text_for_a_budget_above(self) -> None:
        hidden = {verdict: hidden_result(verdict).explanation for verdict in AvailabilityVerdict}
        assert all("a budget above" in text.lower() for text in hidden.values())


def hidden_result(verdict: AvailabilityVerdict) -> domain.balances.Availability:
    budget_id = uuid4()
    result = domain.balances.Availability(verdict, budget_id, budget_id, (), (), SECRET, {})
    return domain.visibility.conceal_availability(result, lambda _: False)


class TestOtherReads:
    async def test_ledger_entry_of_a_transfer_hides_the_other_budget(self, api: BudgetsApi, tree: Tree) -> None:
        request = budgets_pb.TransferBudgetRequest(
            id=tree.group.id, to_budget_id=tree.team.id, amount=eur("5.00"), request_id=uuid4().hex
        )
        await api.who.call(api.stubs.budgets.TransferBudget, request)
        (complete, *_), (hidden, *_) = [await each.entries(tree.team) for each in (api, tree.manager)]
        assert complete.id == hidden.id
        assert (complete.counterpart_budget_id, hidden.counterpart_budget_id) == (tree.group.id, "")

    async def test_reason_of_unbudgeted_spend(self, api: BudgetsApi, tree: Tree, cost_events: CostEvents) -> None:
        team = tree.team
        await cost_events(allocation(team.entity_id, "200.00", department_id=team.department_id))
        (complete,), (hidden,) = [await unbudgeted(each) for each in (api, tree.manager)]
        assert SECRET in complete.detail
        assert (hidden.reason, hidden.detail, hidden.budget_id) == (
            "BUDGET_EXCEEDED",
            "A budget above rejected it.",
            team.id,
        )

    async def test_streams_and_lists_have_no_alert_of_the_budget_above(self, api: BudgetsApi, tree: Tree) -> None:
        await api.charge(tree.team, "149.00")
        assert await api.alerts(tree.group)
        assert (await refusal(tree.manager.alerts(tree.group))).reason == "BUDGET_NOT_FOUND"
