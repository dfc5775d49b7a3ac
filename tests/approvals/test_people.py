"""Who is asked, as user management knows them; who leaves is replaced; and what other services are told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import Approver
from google.protobuf import json_format
from outside.users.v1.events_pb2 import UserDeactivated

from deploy.simulators import directory
from deploy.simulators.directory import Users
from eventing.consumer import Consumer, Delivery
from kit.auth import ServiceTokens
from kit.db import Database
from kit.settings import Settings
from kit.telemetry import Trace
from services.approvals.main import compose
from tests.approvals.conftest import ApprovalsApi, step
from tests.budgets.conftest import BudgetsApi
from tests.harness.callers import Caller, refusal
from tests.harness.services import Approvals, Budgets, Entities, Served, served
from tests.harness.tokens import Keys

FINANCE = Approver(role="finance")


@dataclass
class Managed:
    """The approvals service with user management beside it."""

    served: Served[Approvals]
    users: Users


@pytest.fixture(scope="module")
async def managed(
    settings: Callable[..., Settings],
    entities_served: Served[Entities],
    budgets_served: Served[Budgets],
    keys: Keys,
    open_databases: list[Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Managed]:
    users = Users.sample(tmp_path_factory.mktemp("users") / "state.json")
    server, address = await directory.start("127.0.0.1:0", users, keys.service_jwks)
    addresses = {"entities": entities_served.address, "budgets": budgets_served.address, "users": address}
    async with served(settings("approvals", addresses=addresses), compose, Approvals) as approvals:
        open_databases.append(approvals.service.db)
        yield Managed(approvals, users)
    await server.stop(None)


@pytest.fixture
async def api(
    caller: Callable[..., Caller], finance: Caller, managed: Managed, budgets: Budgets, entities: Entities
) -> ApprovalsApi:
    """Dave and priya are managed by erin, she by grace, and frank is her equal."""
    budget_api = BudgetsApi(finance, budgets, entities)
    budget_api.entity_id = await budget_api.company()
    return ApprovalsApi(caller, managed.served.stubs, budget_api)


def seats(asked: Approval) -> list[tuple[str, str]]:
    return [(seat.user_id or f"@{seat.role}", seat.in_place_of) for one in asked.steps for seat in one.seats]


class TestWhoIsAsked:
    async def test_the_manager_of_whoever_asks(self, api: ApprovalsApi) -> None:
        await api.rule(step("Manager", "+manager_of_requester"))
        asked = await api.ask("dave")
        assert [(seat.user_id, seat.why) for seat in asked.steps[0].seats] == [("erin", "they manage dave, who asks")]
        assert (await refusal(api.ask("grace"))).reason == "APPROVER_MISSING"

    async def test_who_would_decide_on_their_own_is_replaced_by_their_manager(self, api: ApprovalsApi) -> None:
        await api.rule(step("Erin", "erin"))
        assert seats(await api.ask("dave")) == [("erin", "")]
        assert seats(await api.ask("erin")) == [("grace", "erin")]

    async def test_unless_the_rule_allows_it(self, api: ApprovalsApi) -> None:
        await api.rule(step("Erin", "erin"), allow_self_approval=True)
        asked = await api.ask("erin")
        assert (await api.act("erin", asked)).state == Approval.APPROVED

    async def test_who_has_left_is_replaced_and_without_anybody_the_step_is_escalated(
        self, api: ApprovalsApi, managed: Managed, tenant: UUID
    ) -> None:
        await api.rule(step("Grace", "grace", escalate_to=FINANCE))
        for user_id in ("grace", "dave"):
            managed.users.set_active(tenant, user_id, active=False)
        assert seats(await api.ask("priya")) == [("@finance", "")]
        asked = await api.ask("luis")
        refused = await refusal(api.act(api.of("fiona", "finance"), asked, ApprovalAction.DELEGATE, target="dave"))
        assert (refused.reason, refused.metadata["user_id"]) == ("APPROVER_INACTIVE", "dave")


class TestWhoLeaves:
    async def test_their_manager_takes_their_seats_once_however_often_it_is_said(
        self, api: ApprovalsApi, managed: Managed, tenant: UUID
    ) -> None:
        await api.rule(step("First", "sam"), step("Second", "erin"), is_default=True)
        asked, done = await api.ask("dave"), await api.ask("dave")
        for who in ("sam", "erin"):
            await api.act(who, done)
        managed.users.set_active(tenant, "erin", active=False)
        handlers = {handler.name: handler for handler in managed.served.service.handlers}
        consumer = Consumer(managed.served.service.db, "approvals", handlers["replace_departed_approver"])
        body = json_format.MessageToJson(UserDeactivated(user_id="erin"))
        for _ in range(2):
            await consumer.handle(Delivery(uuid4(), tenant, "", body, "users", ""), Trace.from_header(None))
        seen = await api.get(asked)
        assert seats(seen) == [("sam", ""), ("grace", "erin")]
        replaced = [one for one in await api.history(asked) if one.action == ApprovalAction.REPLACE_APPROVER]
        assert [(one.on_behalf_of, one.target) for one in replaced] == [("erin", "grace")]
        assert seats(await api.get(done)) == [("sam", ""), ("erin", "")]
        await api.act("sam", asked)
        assert await api.inbox("erin") == []
        assert (await api.act("grace", asked)).state == Approval.APPROVED

    async def test_requester_does_not_replace_a_departed_approver_whom_they_manage(
        self, api: ApprovalsApi, managed: Managed, tenant: UUID
    ) -> None:
        await api.rule(step("Dave", "dave"))
        approval = await api.ask("erin")
        managed.users.set_active(tenant, "dave", active=False)
        handlers = {handler.name: handler for handler in managed.served.service.handlers}
        consumer = Consumer(managed.served.service.db, "approvals", handlers["replace_departed_approver"])
        body = json_format.MessageToJson(UserDeactivated(user_id="dave"))
        await consumer.handle(Delivery(uuid4(), tenant, "", body, "users", ""), Trace.from_header(None))
        assert seats(await api.get(approval)) == [("grace", "dave")]
        assert (await api.act("grace", approval)).state == Approval.APPROVED


class TestOtherServices:
    @pytest.fixture
    def service(self, settings: Callable[..., Settings], tenant: UUID) -> Caller:
        return Caller(tenant, "service:reporting", ServiceTokens(settings("budgets")).token(tenant))

    async def test_are_told_what_happens_and_miss_nothing(self, api: ApprovalsApi, service: Caller) -> None:
        await api.rule(step("Erin", "erin"))

        async def told(count: int, **given: str) -> list[pb.ApprovalEvent]:
            watching = api.stubs.approvals.WatchApprovals(pb.WatchApprovalsRequest(**given), metadata=service.metadata)
            events = aiter(watching)
            found = [await asyncio.wait_for(anext(events), 10) for _ in range(count)]
            watching.cancel()
            return found

        (start,) = await told(1)
        assert not start.HasField("approval")
        asked = await api.ask("dave")
        await api.act("erin", asked)
        wanted = ["ApprovalRequested", "ApprovalStepStarted", "ApprovalApproved"]
        seen = await told(3, after_event_id=start.event_id)
        assert ([one.event_type for one in seen], {one.approval.approval_id for one in seen}) == (wanted, {asked.id})
        (last,) = await told(1, after_event_id=seen[1].event_id)
        assert last.event_type == "ApprovalApproved"

    async def test_are_given_sums_and_how_long_it_took(self, api: ApprovalsApi, service: Caller) -> None:
        await api.rule(step("Erin", "erin"), is_default=True)
        done = await api.ask("dave", "10.00")
        for amount in ("15.50", "4.50"):
            await api.ask("dave", amount)
        await api.act("erin", done)
        request = pb.SummarizeApprovalsRequest(entity_ids=[api.budgets.entity_id])
        sums = (await service.call(api.stubs.approvals.SummarizeApprovals, request)).summaries
        told = {one.state: (one.count, one.amount.amount) for one in sums}
        assert told == {Approval.APPROVED: (1, "10.00"), Approval.PENDING: (2, "20.00")}
