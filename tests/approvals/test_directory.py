"""Approvers from user management, and replacement of deactivated users."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from billing.approvals.v1 import approval_rule_service_pb2 as rules_pb
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1 import delegation_service_pb2 as delegations_pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import Approver
from billing.approvals.v1.delegation_pb2 import Delegation
from grpc import StatusCode
from outside.users.v1.events_pb2 import UserDeactivated

from clients.directory import Directory
from deploy.simulators import directory
from deploy.simulators.directory import Users
from kit import ids
from kit.db import Database, WriteSession
from kit.errors import Conflict
from kit.origin import Origin
from kit.settings import Settings
from kit.users import User
from services.approvals import store
from services.approvals.main import compose
from tests.approvals.conftest import ApprovalsApi, in_hours, step
from tests.budgets.budgets_api import BudgetsApi
from tests.harness.callers import Caller, refusal
from tests.harness.events import Replica
from tests.harness.services import Approvals, Budgets, Entities, Served, served
from tests.harness.tokens import Keys

FINANCE = Approver(role="finance")


@dataclass
class WithDirectory:
    """The approvals service with a simulated user management."""

    served: Served[Approvals]
    users: Users


@pytest.fixture(scope="module")
async def with_directory(
    settings: Callable[..., Settings],
    entities_served: Served[Entities],
    budgets_served: Served[Budgets],
    keys: Keys,
    open_databases: list[Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[WithDirectory]:
    users = Users.sample(tmp_path_factory.mktemp("users") / "state.json")
    server, address = await directory.start("127.0.0.1:0", users, keys.service_jwks)
    addresses = {"entities": entities_served.address, "budgets": budgets_served.address, "users": address}
    async with served(settings("approvals", addresses=addresses), compose, Approvals) as approvals:
        open_databases.append(approvals.service.db)
        yield WithDirectory(approvals, users)
    await server.stop(None)


@pytest.fixture
async def api(
    caller: Callable[..., Caller], finance: Caller, with_directory: WithDirectory, budgets: Budgets, entities: Entities
) -> ApprovalsApi:
    """erin manages dave and priya, grace manages erin, and frank is a peer of erin."""
    budget_api = BudgetsApi(finance, budgets, entities)
    budget_api.entity_id = await budget_api.company()
    return ApprovalsApi(caller, with_directory.served.stubs, budget_api)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory has as much time as any call: a slow reply must not make another check decide."""
    monkeypatch.setattr(Directory, "check_s", 10.0)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Returns a function after which the directory does not respond to lookups of a user."""
    find = Directory.find

    def hang(user_id: str) -> None:
        async def hang_or_find(directory: Directory, origin: Origin, looked_up: str) -> User | None:
            if looked_up == user_id:
                await asyncio.Event().wait()  # until the caller gives up
            return await find(directory, origin, looked_up)

        monkeypatch.setattr(Directory, "check_s", 0.05)
        monkeypatch.setattr(Directory, "find", hang_or_find)

    return hang


async def deliver_deactivation(with_directory: WithDirectory, tenant: UUID, user_id: str) -> None:
    """Deliver UserDeactivated to the service once more."""
    replica = Replica(with_directory.served.service, "approvals", tenant, actor="users")
    await replica.handle(UserDeactivated(user_id=user_id))


def seats(approval: Approval) -> list[tuple[str, str]]:
    return [(seat.user_id or f"@{seat.role}", seat.in_place_of) for one in approval.steps for seat in one.seats]


class TestAssignment:
    async def test_manager_of_the_requester_decides(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Manager", "+manager_of_requester"))
        approval = await api.submit("dave")
        assert [(seat.user_id, seat.why) for seat in approval.steps[0].seats] == [
            ("erin", "manager of the requester dave")
        ]
        assert (await refusal(api.submit("grace"))).reason == "APPROVER_MISSING"

    async def test_requester_is_replaced_by_their_manager(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Erin", "erin"))
        assert seats(await api.submit("dave")) == [("erin", "")]
        assert seats(await api.submit("erin")) == [("grace", "erin")]

    async def test_requester_decides_if_the_rule_allows_self_approval(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Erin", "erin"), allow_self_approval=True)
        approval = await api.submit("erin")
        assert (await api.act("erin", approval)).state == Approval.APPROVED

    async def test_inactive_approver_without_manager_is_replaced_by_the_escalation_approver(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        await api.create_rule(step("Grace", "grace", escalate_to=FINANCE))
        for user_id in ("grace", "dave"):
            with_directory.users.set_active(tenant, user_id, active=False)
        assert seats(await api.submit("priya")) == [("@finance", "")]
        approval = await api.submit("luis")
        error = await refusal(api.act(api.user("fiona", "finance"), approval, ApprovalAction.DELEGATE, target="dave"))
        assert (error.reason, error.metadata["user_id"]) == ("APPROVER_INACTIVE", "dave")

    async def test_unknown_and_inactive_users_of_a_rule_are_rejected_when_it_is_saved(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        with_directory.users.set_active(tenant, "dave", active=False)
        unknown = step("Two", "erin", "nobody", escalate_to=Approver(user_id="dave"))
        expected = {
            "steps[0].approvers[1].user_id": "There is no user 'nobody' in user management.",
            "steps[0].escalate_to.user_id": "'dave' is not an active user.",
        }
        assert (await refusal(api.create_rule(unknown))).fields == expected
        rule = await api.create_rule(step("Erin", "erin"))
        update = rules_pb.UpdateApprovalRuleRequest(id=rule.id, steps=[unknown])
        assert (await refusal(api.admin.call(api.stubs.rules.UpdateApprovalRule, update))).fields == expected

    async def test_slot_is_not_delegated_to_an_unknown_user(self, api: ApprovalsApi) -> None:
        await api.create_rule(step("Erin", "erin"))
        approval = await api.submit("luis")
        error = await refusal(api.act("erin", approval, ApprovalAction.DELEGATE, target="nobody"))
        assert (error.reason, error.metadata["user_id"]) == ("APPROVER_UNKNOWN", "nobody")
        assert (await refusal(api.delegate("erin", "nobody"))).reason == "APPROVER_UNKNOWN"


class TestReplacement:
    async def test_repeated_event_replaces_a_departed_approver_once(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        await api.create_rule(step("First", "sam"), step("Second", "erin"), is_default=True)
        approval, decided = await api.submit("dave"), await api.submit("dave")
        for user_id in ("sam", "erin"):
            await api.act(user_id, decided)
        with_directory.users.set_active(tenant, "erin", active=False)
        for _ in range(2):
            await deliver_deactivation(with_directory, tenant, "erin")
        assert seats(await api.get(approval)) == [("sam", ""), ("grace", "erin")]
        replaced = [one for one in await api.history(approval) if one.action == ApprovalAction.REPLACE_APPROVER]
        assert [(one.on_behalf_of, one.target) for one in replaced] == [("erin", "grace")]
        assert seats(await api.get(decided)) == [("sam", ""), ("erin", "")]
        await api.act("sam", approval)
        assert await api.to_decide("erin") == []
        assert (await api.act("grace", approval)).state == Approval.APPROVED

    async def test_request_that_fails_does_not_stop_the_replacement_in_the_others(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await api.create_rule(step("Erin", "erin"))
        broken, *others = [await api.submit("dave") for _ in range(3)]
        lock = store.approvals.lock_if_found

        async def fail_for_the_first(tx: WriteSession, approval_id: UUID) -> Any:
            if approval_id == ids.APPROVAL.parse(broken.id):
                raise RuntimeError("an unforeseen fault")
            return await lock(tx, approval_id)

        with_directory.users.set_active(tenant, "erin", active=False)
        with monkeypatch.context() as patched:
            patched.setattr(store.approvals, "lock_if_found", fail_for_the_first)
            with pytest.raises(RuntimeError, match="an unforeseen fault"):
                await deliver_deactivation(with_directory, tenant, "erin")
        for approval in others:
            assert seats(await api.get(approval)) == [("grace", "erin")]
        assert seats(await api.get(broken)) == [("erin", "")]
        await deliver_deactivation(with_directory, tenant, "erin")
        assert seats(await api.get(broken)) == [("grace", "erin")]

    async def test_requester_does_not_replace_a_departed_approver_whom_they_manage(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        await api.create_rule(step("Dave", "dave"))
        approval = await api.submit("erin")
        with_directory.users.set_active(tenant, "dave", active=False)
        await deliver_deactivation(with_directory, tenant, "dave")
        assert seats(await api.get(approval)) == [("grace", "dave")]
        assert (await api.act("grace", approval)).state == Approval.APPROVED

    async def test_only_manager_who_is_an_approver_already_decides_once(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        """ALL of dave and erin: erin, his manager, gets no second slot; grace, hers, replaces dave."""
        await api.create_rule(step("Both", "dave", "erin", mode=Approval.ALL))
        approval = await api.submit("luis")
        with_directory.users.set_active(tenant, "dave", active=False)
        await deliver_deactivation(with_directory, tenant, "dave")
        assert sorted(seats(await api.get(approval))) == [("erin", ""), ("grace", "dave")]
        assert sorted(seats(await api.submit("luis"))) == [("erin", ""), ("grace", "dave")]
        assert (await api.act("erin", approval)).state == Approval.PENDING
        assert (await api.act("grace", approval)).state == Approval.APPROVED

    async def test_request_without_a_possible_approver_is_rejected_and_its_hold_released(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        await api.create_rule(step("Grace", "grace"))
        budget = await api.budgets.open("100.00")
        approval = await api.submit("luis", "40.00", budget_id=budget.id)
        with_directory.users.set_active(tenant, "grace", active=False)
        await deliver_deactivation(with_directory, tenant, "grace")
        rejected = await api.get(approval)
        assert (rejected.state, rejected.decided_by) == (Approval.REJECTED, "service:approvals")
        assert rejected.decision_comment.startswith("APPROVER_MISSING: The step 'Grace' of the rule 'rule' has no")
        await api.wait_for_funds(approval, Approval.RELEASED)

    async def test_escalation_approver_who_left_is_replaced_by_their_manager(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        await api.create_rule(step("Erin", "erin", escalate_to=Approver(user_id="dave")))
        approval = await api.submit("luis")
        with_directory.users.set_active(tenant, "dave", active=False)
        await deliver_deactivation(with_directory, tenant, "dave")
        escalated = await api.act("erin", approval, ApprovalAction.ESCALATE)
        assert seats(escalated) == [("erin", ""), ("grace", "dave")]
        assert (await refusal(api.act("dave", approval))).reason == "APPROVER_INACTIVE"

    async def test_delegations_of_and_to_a_user_who_left_end(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        await api.create_rule(step("Erin", "erin"), is_default=True)
        approval = await api.submit("luis")
        await api.delegate("erin", "dave")
        await api.delegate("dave", "priya")
        with_directory.users.set_active(tenant, "dave", active=False)
        await deliver_deactivation(with_directory, tenant, "dave")
        for user_id in ("dave", "priya"):
            assert await api.to_decide(user_id) == []
            reason = "APPROVER_INACTIVE" if user_id == "dave" else "NOT_AN_APPROVER"
            assert (await refusal(api.act(user_id, approval))).reason == reason
        request = delegations_pb.ListDelegationsRequest()
        listed = (await api.admin.call(api.stubs.delegations.ListDelegations, request)).delegations
        assert [one.state for one in listed] == [Delegation.ENDED] * 2


class TestUsersWhoLeft:
    """They have a token that is still valid."""

    async def test_they_decide_neither_by_role_nor_as_administrators_nor_in_a_batch(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        """No event is delivered: the lookup in the directory decides."""
        await api.create_rule(step("Finance", "@finance", escalate_to=Approver(user_id="erin")))
        approval = await api.submit("luis")
        with_directory.users.set_active(tenant, "dave", active=False)
        for role, action, target in (
            ("finance", ApprovalAction.APPROVE, ""),
            ("finance", ApprovalAction.DELEGATE, "erin"),
            ("billing_admin", ApprovalAction.ADD_APPROVER, "priya"),
            ("billing_admin", ApprovalAction.ESCALATE, ""),
        ):
            error = await refusal(api.act(api.user("dave", role), approval, action, target=target))
            assert (error.reason, error.metadata["user_id"]) == ("APPROVER_INACTIVE", "dave")
        batch = pb.BatchActOnApprovalsRequest(ids=[approval.id], action=ApprovalAction.APPROVE)
        call = api.user("dave", "finance").call(api.stubs.approvals.BatchActOnApprovals, batch)
        assert [one.refusal.reason for one in (await call).results] == ["APPROVER_INACTIVE"]
        with_directory.users.set_active(tenant, "dave", active=True)
        assert (await api.act(api.user("dave", "finance"), approval)).state == Approval.APPROVED

    async def test_they_do_not_decide_while_the_directory_does_not_respond(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID, hanging: Callable[[str], None]
    ) -> None:
        await api.create_rule(step("Finance", "@finance"))
        approval = await api.submit("luis")
        with_directory.users.set_active(tenant, "dave", active=False)
        await deliver_deactivation(with_directory, tenant, "dave")
        hanging("dave")
        dave = api.user("dave", "finance")
        assert await api.to_decide(dave) == []
        assert (await refusal(api.act(dave, approval))).reason == "APPROVER_INACTIVE"
        hanging("fiona")
        assert await api.to_decide(api.user("fiona", "finance")) == [approval.id]
        assert (await api.act(api.user("fiona", "finance"), approval)).state == Approval.APPROVED

    @pytest.mark.parametrize("responds", [True, False])
    async def test_they_delegate_nothing(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID, hanging: Callable[[str], None],
        *, responds: bool,
    ) -> None:  # fmt: skip
        """The received events decide while the directory does not respond."""
        with_directory.users.set_active(tenant, "dave", active=False)
        if not responds:
            await deliver_deactivation(with_directory, tenant, "dave")
            hanging("dave")
        administrator = api.user("dave", "billing_admin")
        for user, delegator in ((api.user("dave"), ""), (api.admin, "dave"), (administrator, "priya")):
            request = delegations_pb.CreateDelegationRequest(
                delegator=delegator, delegate="erin", end_time=in_hours(1), request_id=uuid4().hex
            )
            error = await refusal(user.call(api.stubs.delegations.CreateDelegation, request))
            assert (error.reason, error.metadata.get("user_id")) == ("APPROVER_INACTIVE", "dave")

    async def test_they_end_and_list_only_their_own_delegations(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID
    ) -> None:
        """Ending their own delegation only reduces rights. An administrator who left has no further rights."""
        own, other = await api.delegate("dave", "erin"), await api.delegate("priya", "erin")
        with_directory.users.set_active(tenant, "dave", active=False)
        dave = api.user("dave", "billing_admin")
        end_other, end_own = (delegations_pb.DeleteDelegationRequest(id=one.id) for one in (other, own))
        error = await refusal(dave.call(api.stubs.delegations.DeleteDelegation, end_other))
        assert error.reason == "DELEGATION_NOT_FOUND"
        ended = await dave.call(api.stubs.delegations.DeleteDelegation, end_own)
        assert ended.state == Delegation.ENDED
        await deliver_deactivation(with_directory, tenant, "dave")
        request = delegations_pb.ListDelegationsRequest()
        assert [one.id for one in (await dave.call(api.stubs.delegations.ListDelegations, request)).delegations] == [
            own.id
        ]

    async def test_approver_who_leaves_during_the_opening_is_replaced(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The amount is held, and the opening is interrupted. The event is delivered again once it is completed."""
        await api.create_rule(step("Dave", "dave"))
        budget = await api.budgets.open("100.00")
        request, luis = api.new_request("60.00", budget_id=budget.id), api.user("luis", "procurement")
        await api.start_opening("luis", request, monkeypatch)
        with_directory.users.set_active(tenant, "dave", active=False)
        with pytest.raises(Conflict):
            await deliver_deactivation(with_directory, tenant, "dave")
        approval = await luis.call(api.stubs.approvals.CreateApproval, request)
        await deliver_deactivation(with_directory, tenant, "dave")
        assert seats(await api.get(approval)) == [("erin", "dave")]

    @pytest.mark.parametrize("action", ["create", "create with a hold", "hand over"])
    async def test_user_who_leaves_during_the_call_gets_no_slot(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID, monkeypatch: pytest.MonkeyPatch,
        action: str,
    ) -> None:  # fmt: skip
        """The event is handled between the lookup in the directory and the transaction that stores the slot."""
        await api.create_rule(step("Dave", "frank" if action == "hand over" else "dave"))
        budget_id = (await api.budgets.open("1000.00")).id if action == "create with a hold" else ""
        approval = await api.submit("luis") if action == "hand over" else None
        find = Directory.find

        async def leave_afterwards(directory: Directory, origin: Origin, user_id: str) -> User | None:
            user = await find(directory, origin, user_id)
            if user_id == "dave":
                monkeypatch.setattr(Directory, "find", find)
                with_directory.users.set_active(tenant, "dave", active=False)
                await deliver_deactivation(with_directory, tenant, "dave")
            return user

        monkeypatch.setattr(Directory, "find", leave_afterwards)

        async def attempt() -> Approval:
            if approval:
                return await api.act("frank", approval, ApprovalAction.DELEGATE, target="dave")
            return await api.submit("luis", budget_id=budget_id)

        assert (await refusal(attempt())).code is StatusCode.ABORTED
        if approval:
            assert (await refusal(attempt())).reason == "APPROVER_INACTIVE"
        else:
            assert seats(await attempt()) == [("erin", "dave")]

    @pytest.mark.parametrize("leaver", ["dave", "erin"])
    async def test_user_who_leaves_during_the_call_has_no_delegation(
        self, api: ApprovalsApi, with_directory: WithDirectory, tenant: UUID, monkeypatch: pytest.MonkeyPatch,
        leaver: str,
    ) -> None:  # fmt: skip
        find = Directory.find

        async def leave_afterwards(directory: Directory, origin: Origin, user_id: str) -> User | None:
            user = await find(directory, origin, user_id)
            if user_id == leaver:
                monkeypatch.setattr(Directory, "find", find)
                with_directory.users.set_active(tenant, leaver, active=False)
                await deliver_deactivation(with_directory, tenant, leaver)
            return user

        monkeypatch.setattr(Directory, "find", leave_afterwards)
        assert (await refusal(api.delegate("dave", "erin"))).code is StatusCode.ABORTED
        assert (await refusal(api.delegate("dave", "erin"))).reason == "APPROVER_INACTIVE"
