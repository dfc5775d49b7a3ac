"""Budgets: creation, lists, updates, alerts, states, access and audit."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.events_pb2 import BudgetAlertRaised, BudgetClosed, BudgetExhausted
from billing.entities.v1.department_service_pb2 import CreateDepartmentRequest
from billing.entities.v1.entity_service_pb2 import DeactivateEntityRequest
from billing.type.v1.money_pb2 import Money
from google.protobuf.field_mask_pb2 import FieldMask

from kit.ids import BUDGET
from services.budgets.clients import Owners
from tests.budgets.budgets_api import BudgetsApi, eur
from tests.harness.callers import Caller, refusal
from tests.harness.observe import AuditRow, OutboxEvent, PublishedEvents, eventually

AuditRows = Callable[[str], Awaitable[list[AuditRow]]]
OutboxEvents = Callable[[str], Awaitable[list[OutboxEvent]]]


class TestCreateBudget:
    async def test_new_budget_has_the_requested_fields_and_defaults(self, api: BudgetsApi) -> None:
        budget = await api.open("1000", category="cloud", gl_code="6805", period_start_date="2026-04-01")
        assert (budget.category, budget.gl_code, budget.time_zone) == ("cloud", "6805", "UTC")
        assert (budget.period_start_date, budget.period_end_date) == ("2026-04-01", "2027-04-01")
        assert (budget.amount, budget.spent, budget.available) == (eur("1000.00"), eur("0.00"), eur("1000.00"))
        assert (budget.overspend_policy, budget.state) == (Budget.BLOCK, Budget.ACTIVE)
        assert list(budget.alert_thresholds_bp) == [5000, 8000, 9000, 10000]
        assert budget.create_time == budget.update_time
        assert await api.get(budget) == budget

    async def test_owner_must_exist(self, api: BudgetsApi) -> None:
        error = await refusal(api.open(entity_id="ent_" + uuid4().hex))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "OWNER_NOT_FOUND")

    async def test_department_must_belong_to_the_entity(self, api: BudgetsApi) -> None:
        department = await api.department(await api.company("OTHER"))
        assert (await refusal(api.open(department_id=department))).reason == "OWNER_NOT_FOUND"

    async def test_inactive_entity_can_have_no_new_budget(self, api: BudgetsApi) -> None:
        entity = await api.company("GONE")
        await api.who.call(api.entities.entities.DeactivateEntity, DeactivateEntityRequest(id=entity))
        assert (await refusal(api.open(entity_id=entity))).reason == "OWNER_INACTIVE"

    async def test_child_has_the_currency_of_its_parent_and_a_period_within(self, api: BudgetsApi) -> None:
        group = await api.open(period_start_date="2026-01-01")
        other = Money(currency_code="USD", amount="1")
        assert (await refusal(api.open(parent_id=group.id, amount=other))).reason == "CURRENCY_MISMATCH"
        later = await refusal(api.open(parent_id=group.id, period_start_date="2026-02-01"))
        assert later.reason == "PERIOD_OUTSIDE_PARENT"

    async def test_closed_budget_can_have_no_new_child(self, api: BudgetsApi) -> None:
        group = await api.open()
        await api.who.call(api.stubs.budgets.CloseBudget, pb.CloseBudgetRequest(id=group.id))
        assert (await refusal(api.open(parent_id=group.id))).reason == "BUDGET_STATE"

    async def test_chain_has_a_maximum_length(self, api: BudgetsApi) -> None:
        budget = await api.open()
        for _ in range(7):
            budget = await api.open(parent_id=budget.id)
        assert (await refusal(api.open(parent_id=budget.id))).metadata["limit"] == "8"

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"period_type": Budget.CUSTOM}, "period_end_date"),
            ({"period_type": Budget.CUSTOM, "period_end_date": "2026-01-01"}, "period_end_date"),
            ({"period_type": Budget.ANNUAL, "period_end_date": "2026-12-31"}, "period_end_date"),
            ({"period_start_date": "2026-02-30"}, "period_start_date"),
            ({"period_start_date": "9999-06-01"}, "period_start_date"),
            ({"period_start_date": "0001-01-01", "time_zone": "Asia/Tokyo"}, "period_start_date"),
            ({"time_zone": "Mars/Olympus"}, "time_zone"),
            ({"alert_thresholds_bp": [8000, 8000]}, "alert_thresholds_bp"),
            ({"alert_thresholds_bp": [0]}, "alert_thresholds_bp[0]"),
            ({"parent_id": "ent_" + "0" * 32}, "parent_id"),
            ({"name": ""}, "name"),
        ],
    )
    async def test_invalid_input_is_rejected_with_its_field(
        self, api: BudgetsApi, given: dict[str, Any], field: str
    ) -> None:
        error = await refusal(api.open(**{"period_start_date": "2026-01-01", **given}))
        assert error.reason == "INVALID_FIELDS"
        assert set(error.fields) == {field}

    async def test_all_invalid_fields_are_named_at_once(self, api: BudgetsApi) -> None:
        request = pb.CreateBudgetRequest(
            entity_id="bud_" + "0" * 32, period_start_date="2026-13-01", time_zone="Nowhere", amount=eur("1.234")
        )
        error = await refusal(api.who.call(api.stubs.budgets.CreateBudget, request))
        assert set(error.fields) == {
            "entity_id", "name", "period_type", "period_start_date", "time_zone", "amount.amount",
        }  # fmt: skip
        assert "this is the id of a budget" in error.fields["entity_id"]

    async def test_repeated_key_creates_one_budget(self, api: BudgetsApi) -> None:
        assert await api.open(request_id="k1") == await api.open(request_id="k1")
        assert (await refusal(api.open("2000", request_id="k1"))).reason == "IDEMPOTENCY_MISMATCH"


class TestListBudgets:
    async def names(self, api: BudgetsApi, **filters: Any) -> list[str]:
        reply = await api.who.call(api.stubs.budgets.ListBudgets, pb.ListBudgetsRequest(**filters))
        return [budget.name for budget in reply.budgets]

    async def test_filters(self, api: BudgetsApi) -> None:
        first = await api.open("100", name="first", period_start_date="2026-01-01")
        department = await api.department(api.entity_id)
        await api.open(name="second", department_id=department, parent_id=first.id, period_start_date="2026-01-01")
        await api.open(name="third", entity_id=await api.company("B"), period_start_date="2025-01-01", draft=True)
        await api.open(name="old", period_start_date="2019-01-01", period_type=Budget.MONTHLY, recurring=False)
        assert await self.names(api) == ["first", "second", "third", "old"]
        assert await self.names(api, entity_id=api.entity_id) == ["first", "second", "old"]
        assert await self.names(api, department_id=department) == ["second"]
        assert await self.names(api, parent_id=first.id) == ["second"]
        assert await self.names(api, state=Budget.DRAFT) == ["third"]
        assert await self.names(api, period_date="2019-01-31") == ["old"]
        assert await self.names(api, period_date="2019-02-01") == []

    async def test_utilisation_filter(self, api: BudgetsApi) -> None:
        half, _ = await api.open("100", name="half"), await api.open("100", name="none")
        await api.charge(half, "50")
        assert await self.names(api, utilisation_min_bp=5000) == ["half"]
        assert await self.names(api, utilisation_min_bp=5001) == []

    async def test_pages_contain_each_budget_once_while_others_are_created(self, api: BudgetsApi) -> None:
        budget_ids = [(await api.open(name=f"b{n}")).id for n in range(5)]
        listed, token = [], ""
        while True:
            request = pb.ListBudgetsRequest(page_size=2, page_token=token, entity_id=api.entity_id)
            page = await api.who.call(api.stubs.budgets.ListBudgets, request)
            listed += [budget.id for budget in page.budgets]
            token = page.next_page_token
            if not token:
                break
            if len(budget_ids) < 8:
                budget_ids.append((await api.open(name="later")).id)
        assert listed == budget_ids

    async def test_page_token_of_other_filters_is_rejected(self, api: BudgetsApi) -> None:
        for _ in range(2):
            await api.open()
        page = await api.who.call(api.stubs.budgets.ListBudgets, pb.ListBudgetsRequest(page_size=1))
        other = pb.ListBudgetsRequest(page_size=1, page_token=page.next_page_token, state=Budget.ACTIVE)
        error = await refusal(api.who.call(api.stubs.budgets.ListBudgets, other))
        assert (error.reason, set(error.fields)) == ("PAGE_TOKEN_INVALID", {"page_token"})


class TestUpdateBudget:
    async def test_update_changes_only_the_given_fields(self, api: BudgetsApi) -> None:
        budget = await api.open(category="cloud", gl_code="6805")
        changed = await api.update(budget, name="Servers", overspend_policy=Budget.WARN)
        assert (changed.name, changed.overspend_policy, changed.category) == ("Servers", Budget.WARN, "cloud")
        assert changed.etag != budget.etag

    async def test_masked_field_without_value_is_cleared(self, api: BudgetsApi) -> None:
        budget = await api.open(category="cloud")
        assert (await api.update(budget, update_mask=FieldMask(paths=["category"]))).category == ""
        error = await refusal(api.update(budget, update_mask=FieldMask(paths=["amount", "name"])))
        assert set(error.fields) == {"amount", "name"}
        unknown = await refusal(api.update(budget, update_mask=FieldMask(paths=["spent"])))
        assert "allowed:" in unknown.fields["update_mask"]

    async def test_stale_etag_is_rejected(self, api: BudgetsApi) -> None:
        budget = await api.open()
        await api.update(budget, name="Mine", etag=budget.etag)
        error = await refusal(api.update(budget, name="Yours", etag=budget.etag))
        assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")

    async def test_amount_below_spend_is_rejected(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        await api.charge(budget, "60")
        error = await refusal(api.update(budget, amount=eur("59.99")))
        assert (error.reason, error.metadata["spent"]) == ("AMOUNT_BELOW_SPENT", "60.00")
        assert (await api.update(budget, amount=eur("60"))).available.amount == "0.00"

    async def test_new_amount_is_recorded_in_the_ledger(self, api: BudgetsApi, admin: Any) -> None:
        budget = await api.open("100")
        await api.update(budget, amount=eur("250"))
        await api.update(budget, amount=eur("200"))
        entries = await admin.fetch(
            "select amount, chain_versions, actor from budgets.budget_entries where budget_id = $1 order by id",
            BUDGET.parse(budget.id),
        )
        assert [(int(row["amount"]), list(row["chain_versions"])) for row in entries] == [(150, [1]), (-50, [2])]

    async def test_closed_budget_cannot_be_updated(self, api: BudgetsApi) -> None:
        budget = await api.open()
        await api.who.call(api.stubs.budgets.CloseBudget, pb.CloseBudgetRequest(id=budget.id))
        assert (await refusal(api.update(budget, name="x"))).metadata["state"] == "CLOSED"


class TestAlerts:
    async def test_charge_raises_one_alert_per_reached_threshold(
        self, api: BudgetsApi, published_events: PublishedEvents
    ) -> None:
        budget = await api.open("100")
        charge = await api.charge(budget, "85")
        await api.charge(budget, "1")
        alerts = await api.alerts(budget)
        assert [(a.threshold_bp, a.utilisation_bp, a.charge_id) for a in alerts] == [
            (8000, 8500, charge.id),
            (5000, 8500, charge.id),
        ]
        events = await published_events.at_least(2, BudgetAlertRaised)
        assert sorted((event.alert.threshold_bp, event.entity_id) for event in events) == [
            (5000, api.entity_id),
            (8000, api.entity_id),
        ]
        assert api.who.trace.trace_id in published_events.headers(BudgetAlertRaised)["traceparent"]

    async def test_each_budget_of_the_chain_has_its_own_alerts(self, api: BudgetsApi) -> None:
        group = await api.open("100", name="Group")
        team = await api.open("1000", name="Team", parent_id=group.id)
        await api.charge(team, "50")
        assert [len(await api.alerts(budget)) for budget in (team, group)] == [0, 1]

    async def test_higher_amount_resolves_alerts_and_they_can_be_raised_again(self, api: BudgetsApi) -> None:
        budget = await api.open("100")
        await api.charge(budget, "85")
        await api.update(budget, amount=eur("150"))
        assert [(a.threshold_bp, a.state) for a in await api.alerts(budget)] == [
            (8000, Alert.RESOLVED),
            (5000, Alert.OPEN),
        ]
        await api.charge(budget, "40")
        still_open = await api.alerts(budget, state=Alert.OPEN)
        assert [a.threshold_bp for a in still_open] == [8000, 5000]

    async def test_lower_amount_raises_alerts(self, api: BudgetsApi) -> None:
        budget = await api.open("1000")
        await api.charge(budget, "450")
        await api.update(budget, amount=eur("500"))
        assert [(a.threshold_bp, a.charge_id) for a in await api.alerts(budget)] == [
            (9000, ""),
            (8000, ""),
            (5000, ""),
        ]

    async def test_overspending_and_exhaustion_are_published(
        self, api: BudgetsApi, published_events: PublishedEvents
    ) -> None:
        budget = await api.open("100", overspend_policy=Budget.WARN, alert_thresholds_bp=[12000])
        await api.charge(budget, "110")
        assert [a.alert_type for a in await api.alerts(budget)] == [Alert.OVERSPEND]
        await api.charge(budget, "10")
        assert [a.threshold_bp for a in await api.alerts(budget, alert_type=Alert.THRESHOLD)] == [12000]
        assert (await published_events.first(BudgetExhausted)).budget_id == budget.id
        await published_events.at_least(2, BudgetAlertRaised)
        assert len(published_events.of(BudgetExhausted)) == 1


class TestStates:
    async def test_draft_is_activated_closed_and_reopened(
        self, api: BudgetsApi, published_events: PublishedEvents
    ) -> None:
        budget = await api.open(draft=True)
        states = [
            (await api.who.call(api.stubs.budgets.ActivateBudget, pb.ActivateBudgetRequest(id=budget.id))).state,
            (await api.who.call(api.stubs.budgets.CloseBudget, pb.CloseBudgetRequest(id=budget.id))).state,
            (await api.who.call(api.stubs.budgets.ReopenBudget, pb.ReopenBudgetRequest(id=budget.id))).state,
        ]
        assert states == [Budget.ACTIVE, Budget.CLOSED, Budget.ACTIVE]
        assert (await published_events.first(BudgetClosed)).budget_id == budget.id
        assert await api.charge(budget, "1")

    async def test_closing_twice_names_the_current_and_the_allowed_states(self, api: BudgetsApi) -> None:
        budget = await api.open()
        await api.who.call(api.stubs.budgets.CloseBudget, pb.CloseBudgetRequest(id=budget.id))
        error = await refusal(api.who.call(api.stubs.budgets.CloseBudget, pb.CloseBudgetRequest(id=budget.id)))
        assert (error.metadata["state"], error.metadata["allowed"]) == ("CLOSED", "DRAFT, ACTIVE, CLOSING")

    async def test_deactivating_an_entity_closes_its_budgets(self, api: BudgetsApi) -> None:
        entity = await api.company("GOING")
        mine, draft = await api.open(entity_id=entity), await api.open(entity_id=entity, draft=True)
        other = await api.open(entity_id=await api.company("STAYING"))
        await api.who.call(api.entities.entities.DeactivateEntity, DeactivateEntityRequest(id=entity))

        async def closed() -> bool:
            return [(await api.get(budget)).state for budget in (mine, draft)] == [Budget.CLOSED] * 2

        await eventually(closed)
        assert (await api.get(other)).state == Budget.ACTIVE
        reopened = refusal(api.who.call(api.stubs.budgets.ReopenBudget, pb.ReopenBudgetRequest(id=mine.id)))
        assert (await reopened).reason == "OWNER_INACTIVE"


class TestRetiredOwners:
    async def test_no_budget_stays_open_if_its_entity_is_deactivated_meanwhile(
        self, api: BudgetsApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entity = await api.company("GOING")
        checked, deactivated = asyncio.Event(), asyncio.Event()
        find = Owners.find

        async def find_and_pause(owners: Owners, *arguments: Any) -> Any:
            owner = await find(owners, *arguments)
            checked.set()
            await deactivated.wait()
            return owner

        early = await api.open(entity_id=entity)
        monkeypatch.setattr(Owners, "find", find_and_pause)
        opening = asyncio.create_task(api.open(entity_id=entity, name="late"))
        await checked.wait()
        await api.who.call(api.entities.entities.DeactivateEntity, DeactivateEntityRequest(id=entity))

        async def closed() -> bool:
            return (await api.get(early)).state == Budget.CLOSED

        await eventually(closed)
        deactivated.set()
        assert (await refusal(opening)).reason == "OWNER_INACTIVE"
        reply = await api.who.call(api.stubs.budgets.ListBudgets, pb.ListBudgetsRequest(entity_id=entity))
        assert [budget.state for budget in reply.budgets] == [Budget.CLOSED]


class TestAccess:
    async def test_budget_of_another_tenant_is_not_found(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        budget = await api.open()
        stranger = api_for(caller(tenant=uuid4()))
        missing = Budget(id="bud_" + uuid4().hex)
        for call in (
            stranger.get,
            stranger.alerts,
            lambda b: stranger.charge(b, "1"),
            lambda b: stranger.update(b, name="x"),
        ):
            of_other_tenant, of_missing = await refusal(call(budget)), await refusal(call(missing))
            assert of_other_tenant.reason == of_missing.reason == "BUDGET_NOT_FOUND"
            assert of_other_tenant.message.replace(budget.id, missing.id) == of_missing.message

    async def test_viewer_can_read_but_not_charge(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        budget = await api.open()
        viewer = api_for(caller("viewer"))
        assert await viewer.get(budget) == budget
        error = await refusal(viewer.charge(budget, "1"))
        assert (error.code, error.metadata["permission"]) == (grpc.StatusCode.PERMISSION_DENIED, "budgets.charge")

    async def test_entity_scope_includes_everything_below_and_nothing_else(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        top = await api.company("TOP")
        below = await api.company("BELOW", parent_id=top)
        group = await api.open("100", name="group", entity_id=await api.company("GROUP"))
        own = await api.open("1000", name="own", entity_id=top, parent_id=group.id)
        lower = await api.open("1000", name="lower", entity_id=below)
        manager = api_for(caller("department_manager", subject="mia", entity_scope=[top]))
        reply = await manager.who.call(manager.stubs.budgets.ListBudgets, pb.ListBudgetsRequest())
        assert [budget.name for budget in reply.budgets] == ["own", "lower"]
        assert await manager.get(lower)
        assert (await refusal(manager.get(group))).reason == "BUDGET_NOT_FOUND"
        assert (await refusal(manager.charge(group, "1"))).reason == "BUDGET_NOT_FOUND"
        # The parent counts although it is not visible to the manager.
        assert (await refusal(manager.charge(own, "101"))).reason == "BUDGET_EXCEEDED"
        assert (await manager.charge(own, "100")).actor == "mia"

    async def test_department_scope_includes_its_budgets_only(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        entity = await api.company()
        department = await api.department(entity)
        request = CreateDepartmentRequest(entity_id=entity, parent_id=department, code="SUB", name="Sub")
        sub = (await api.who.call(api.entities.departments.CreateDepartment, request)).id
        whole = await api.open(entity_id=entity)
        of_sub = await api.open(entity_id=entity, department_id=sub)
        manager = api_for(caller("department_manager", department_scope=[department]))
        assert await manager.get(of_sub)
        assert (await refusal(manager.get(whole))).reason == "BUDGET_NOT_FOUND"

    async def test_empty_scope_includes_nothing(
        self, api: BudgetsApi, api_for: Callable[[Caller], BudgetsApi], caller: Callable[..., Caller]
    ) -> None:
        await api.open()
        manager = api_for(caller("department_manager", entity_scope=[]))
        assert not (await manager.who.call(manager.stubs.budgets.ListBudgets, pb.ListBudgetsRequest())).budgets


class TestAudit:
    async def test_definition_changes_are_audited_and_charges_are_not(
        self, api: BudgetsApi, audit_rows: AuditRows
    ) -> None:
        budget = await api.open("100")
        await api.charge(budget, "10")
        await api.update(budget, name="Servers")
        rows = [row for row in await audit_rows("budgets") if row.table == "budgets"]
        assert [(row.action, row.actor, row.trace_id) for row in rows] == [
            ("insert", "alice", api.who.trace.trace_id),
            ("update", "alice", api.who.trace.trace_id),
        ]
        assert rows[1].before is not None
        assert rows[1].after is not None
        assert (rows[1].before["name"], rows[1].after["name"]) == ("Cloud", "Servers")

    async def test_rejected_charge_publishes_nothing(self, api: BudgetsApi, outbox_events: OutboxEvents) -> None:
        budget = await api.open("100")
        await refusal(api.charge(budget, "101"))
        assert await outbox_events("budgets") == []

    async def test_trace_continues_from_the_call_to_the_event(
        self,
        api: BudgetsApi,
        published_events: PublishedEvents,
        audit_rows: AuditRows,
        logs: list[dict[str, Any]],
        caller: Callable[..., Caller],
        api_for: Callable[[Caller], BudgetsApi],
    ) -> None:
        top = await api.company("TOP")
        budget = await api.open("100", entity_id=top)
        manager = api_for(caller("department_manager", entity_scope=[top]))
        await manager.charge(budget, "80")
        trace_id = manager.who.trace.trace_id
        await published_events.first(BudgetAlertRaised)
        assert trace_id in published_events.headers(BudgetAlertRaised)["traceparent"]
        assert trace_id in {row.trace_id for row in await audit_rows("budgets")}
        logged = {line.get("rpc_method") for line in logs if line.get("trace_id") == trace_id}
        assert logged == {
            "billing.budgets.v1.LedgerService/Charge",
            "billing.entities.v1.EntityService/ResolveScope",
        }
