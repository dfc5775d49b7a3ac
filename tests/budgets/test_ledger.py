"""Lists of entries and alerts: complete, in order, as of a time, and limited to the scope of the caller."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from billing.budgets.v1 import alert_service_pb2 as alert_pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import BudgetVerification, Entry

from kit.ids import BUDGET, HOLD
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.harness.callers import Caller, refusal


async def entries(api: BudgetsApi, budget: Budget, **given: Any) -> list[Entry]:
    return list(
        (await api.who.call(api.stubs.ledger.ListEntries, ledger_pb.ListEntriesRequest(id=budget.id, **given))).entries
    )


async def verify_budget(api: BudgetsApi, budget: Budget) -> BudgetVerification:
    return await api.who.call(api.stubs.ledger.VerifyBudget, ledger_pb.VerifyBudgetRequest(id=budget.id))


class TestListEntries:
    async def test_a_budget_lists_its_own_entries_and_those_below(self, api: BudgetsApi) -> None:
        group = await api.open("1000", name="Group")
        team = await api.open("500", name="Team", parent_id=group.id)
        other = await api.open("500", name="Other", parent_id=group.id)
        first = await api.charge(team, "10", "k1", reference="PO-1")
        await api.charge(other, "20")
        await api.update(team, amount=eur("600"))
        await api.update(group, amount=eur("2000"))
        rows = await entries(api, group)
        assert [(e.entry_type, e.amount.amount, e.spent_after.amount, e.budget_amount_after.amount) for e in rows] == [
            (Entry.ADJUST, "1000.00", "30.00", "2000.00"),
            (Entry.CHARGE, "20.00", "30.00", "1000.00"),
            (Entry.CHARGE, "10.00", "10.00", "1000.00"),
        ]
        assert [e.ledger_version for e in rows] == [3, 2, 1]
        assert (rows[2].id, rows[2].budget_id, rows[2].request_id, rows[2].reference) == (
            first.id,
            team.id,
            "k1",
            "PO-1",
        )
        assert [e.entry_type for e in await entries(api, team)] == [Entry.ADJUST, Entry.CHARGE]
        assert [e.amount.amount for e in await entries(api, group, entry_type=Entry.ADJUST)] == ["1000.00"]

    async def test_entries_as_of_a_past_time_exclude_later_ones(self, api: BudgetsApi) -> None:
        budget = await api.open()
        then = (await api.charge(budget, "10")).create_time
        await api.charge(budget, "20")
        assert [e.spent_after.amount for e in await entries(api, budget, as_of_time=then)] == ["10.00"]

    async def test_pages_contain_each_entry_once_while_more_is_charged(self, api: BudgetsApi) -> None:
        budget = await api.open()
        charged = [(await api.charge(budget, "1")).id for _ in range(5)]
        entry_ids, token = [], ""
        while True:
            request = ledger_pb.ListEntriesRequest(id=budget.id, page_size=2, page_token=token)
            page = await api.who.call(api.stubs.ledger.ListEntries, request)
            entry_ids += [entry.id for entry in page.entries]
            token = page.next_page_token
            if not token:
                break
            await api.charge(budget, "1")
        assert entry_ids == charged[::-1]

    async def test_the_ledger_of_a_budget_outside_the_scope_is_not_found(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        budget = await api.open()
        for who in (caller(tenant=uuid4()), caller("department_manager", entity_scope=[])):
            stranger = api_for(who)
            assert (await refusal(entries(stranger, budget))).reason == "BUDGET_NOT_FOUND"
            assert (await refusal(verify_budget(stranger, budget))).reason == "BUDGET_NOT_FOUND"


class TestVerifyBudget:
    async def test_a_budget_is_verified_while_its_tree_is_charged(self, api: BudgetsApi) -> None:
        group = await api.open("10000", name="Group")
        teams = [await api.open("500", name=f"Team {n}", parent_id=group.id) for n in range(3)]
        charging = asyncio.gather(*(api.charge(teams[n % 3], "1.10") for n in range(60)))
        while not charging.done():
            verification = await verify_budget(api, group)
            assert verification.verified, verification
        await charging
        for budget, spent, count in ((group, "66.00", 60), *((team, "22.00", 20) for team in teams)):
            verification = await verify_budget(api, budget)
            assert (verification.verified, verification.spent.amount, verification.spent_by_ledger.amount) == (
                True,
                spent,
                spent,
            )
            assert verification.ledger_version == verification.entry_count == count

    async def test_a_tampered_balance_is_detected(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open()
        await api.charge(budget, "10")
        await admin.execute("update budgets.budgets set spent = spent - 1 where id = $1", BUDGET.parse(budget.id))
        verification = await verify_budget(api, budget)
        assert (verification.verified, verification.spent.amount, verification.spent_by_ledger.amount) == (
            False,
            "9.00",
            "10.00",
        )

    @pytest.mark.parametrize("number", ["held", "committed", "spent", "captured", "ledger_version"])
    async def test_each_number_is_compared(self, api: BudgetsApi, admin: Any, number: str) -> None:
        budget = await api.open()
        await api.capture(await api.commit(await api.hold(budget, "10")), "4")
        await api.hold(budget, "5")
        verification = await verify_budget(api, budget)
        assert (verification.verified, verification.open_holds.amount) == (True, "11.00")
        assert (verification.held_by_ledger.amount, verification.committed_by_ledger.amount) == ("5.00", "6.00")
        assert (verification.spent_by_ledger.amount, verification.captured_by_ledger.amount) == ("4.00", "4.00")
        change = f"{number} - 1" if number == "captured" else f"{number} + 1"
        await admin.execute(f"update budgets.budgets set {number} = {change} where id = $1", BUDGET.parse(budget.id))
        assert not (await verify_budget(api, budget)).verified

    async def test_tampered_holds_are_detected(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open()
        hold = await api.hold(budget, "10")
        await admin.execute("update budgets.budget_holds set captured = 1 where id = $1", HOLD.parse(hold.id))
        verification = await verify_budget(api, budget)
        assert (verification.verified, verification.held.amount, verification.open_holds.amount) == (
            False,
            "10.00",
            "9.00",
        )


class TestAlerts:
    async def test_an_acknowledged_alert_is_not_raised_again_and_is_resolved(self, api: BudgetsApi) -> None:
        budget = await api.open("100", alert_thresholds_bp=[5000])
        await api.charge(budget, "50")
        (alert,) = await api.alerts(budget)
        request = alert_pb.AcknowledgeAlertRequest(id=alert.id)
        assert (await api.who.call(api.stubs.alerts.AcknowledgeAlert, request)).state == Alert.ACKNOWLEDGED
        repeated = await refusal(api.who.call(api.stubs.alerts.AcknowledgeAlert, request))
        assert (repeated.reason, repeated.metadata["state"], repeated.metadata["allowed"]) == (
            "ALERT_STATE",
            "ACKNOWLEDGED",
            "OPEN",
        )
        await api.charge(budget, "1")
        assert [a.state for a in await api.alerts(budget)] == [Alert.ACKNOWLEDGED]
        await api.update(budget, amount=eur("1000"))
        assert [a.state for a in await api.alerts(budget)] == [Alert.RESOLVED]

    async def test_all_alerts_are_limited_to_visible_budgets(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        mine, other = await api.company("MINE"), await api.company("OTHER")
        for entity in (mine, other):
            budget = await api.open("100", entity_id=entity, alert_thresholds_bp=[5000])
            await api.charge(budget, "60")

        async def visible_alerts(who: BudgetsApi, **given: Any) -> list[Alert]:
            return list(
                (await who.who.call(who.stubs.alerts.ListAllAlerts, alert_pb.ListAllAlertsRequest(**given))).alerts
            )

        everything = await visible_alerts(api)
        assert everything[0].budget_id == budget.id
        assert len(everything) == 2
        assert len(await visible_alerts(api, since_time=everything[0].create_time)) == 1
        assert await visible_alerts(api, state=Alert.RESOLVED) == []
        manager = api_for(caller("department_manager", entity_scope=[mine]))
        assert [alert.id for alert in await visible_alerts(manager)] == [everything[1].id]
        stranger = api_for(caller(tenant=uuid4()))
        assert await visible_alerts(stranger) == []
        refused = refusal(
            stranger.who.call(
                stranger.stubs.alerts.AcknowledgeAlert, alert_pb.AcknowledgeAlertRequest(id=everything[0].id)
            )
        )
        assert (await refused).reason == "ALERT_NOT_FOUND"
