"""Every combination of state, action and kind of user, through the RPCs, as one table.

carla, ivan and anyone of finance are the approvers of the active step, zoe is the approver of the next one. dora is the
delegate of carla. alice is the requester: once as a manager, once with the role of the active step. ivan delegated to
alice, and alice to hugo. leo was an approver of the active step, and left; nora was his delegate. lena of finance and
the administrator rob left, too; their tokens are still valid.
"""

import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import Approver
from grpc import aio
from outside.users.v1.events_pb2 import UserDeactivated

from kit import ids
from tests.approvals.conftest import MEMBER, ApprovalsApi, expire, step
from tests.harness.callers import Caller, Refusal
from tests.harness.events import Replica
from tests.harness.services import Approvals, Served

OK: Final = ""
STATE, NOT_AN_APPROVER, SELF = "APPROVAL_STATE", "NOT_AN_APPROVER", "SELF_APPROVAL"
LEFT: Final = "APPROVER_INACTIVE"
NOT_THE_REQUESTER, NO_PERMISSION = "NOT_THE_REQUESTER", "PERMISSION_MISSING"

USERS: Final[Mapping[str, tuple[str, str | tuple[str, str]]]] = {
    "approver": ("carla", MEMBER),
    "holder of the role": ("emil", "finance"),
    "delegate": ("dora", MEMBER),
    "approver of the next step": ("zoe", MEMBER),
    "requester": ("alice", MEMBER),
    "requester with the role": ("alice", "finance"),
    "delegate by way of the requester": ("hugo", MEMBER),
    "approver who left": ("leo", MEMBER),
    "delegate of an approver who left": ("nora", MEMBER),
    "holder of the role who left": ("lena", "finance"),
    "admin who left": ("rob", "billing_admin"),
    "admin": ("root", "billing_admin"),
    "other user": ("mallory", MEMBER),
    "viewer": ("vera", "viewer"),
}


def row(usual: str, **exceptions: str) -> Mapping[str, str]:
    """The error reason for each user; OK if the action is allowed."""
    return {**dict.fromkeys(USERS, usual), "viewer": NO_PERMISSION, **exceptions}


_APPROVERS: Final = {"approver": OK, "holder of the role": OK, "delegate": OK}
_OWNERS: Final = ("requester", "requester with the role", "admin")
_REQUESTERS: Final = ("requester", "requester with the role")  # alice is a delegate of ivan, too
_LEFT: Final = dict.fromkeys(("approver who left", "holder of the role who left", "admin who left"), LEFT)
BY_APPROVERS: Final = row(NOT_AN_APPROVER, **{**_APPROVERS, **_LEFT, **dict.fromkeys(_REQUESTERS, SELF)})
BY_APPROVERS_OR_ADMIN: Final = row(
    NOT_AN_APPROVER, **{**_APPROVERS, **_LEFT, **dict.fromkeys(_REQUESTERS, OK), "admin": OK}
)
BY_ALL: Final = row(OK, viewer=OK)
BY_OWNERS: Final = row(NOT_THE_REQUESTER, **dict.fromkeys(_OWNERS, OK))
BY_OWNERS_IN_OTHER_STATES: Final = row(NOT_THE_REQUESTER, **dict.fromkeys(_OWNERS, STATE))
IN_OTHER_STATES: Final = row(STATE)

DECISIONS: Final = ("APPROVE", "REJECT", "REQUEST_CHANGES", "DELEGATE")
OTHERS: Final = ("ESCALATE", "ADD_APPROVER")
ACTIONS: Final = (*DECISIONS, *OTHERS, "COMMENT", "CANCEL", "RESUBMIT")
STATES: Final = ("OPENING", "PENDING", "CHANGES_REQUESTED", "APPROVED", "REJECTED", "CANCELLED", "EXPIRED")

TABLE: Final[Mapping[tuple[str, str], Mapping[str, str]]] = {
    **{(state, action): IN_OTHER_STATES for state in STATES for action in (*DECISIONS, *OTHERS)},
    **{(state, action): BY_OWNERS_IN_OTHER_STATES for state in STATES for action in ("CANCEL", "RESUBMIT")},
    **{(state, "COMMENT"): BY_ALL for state in STATES},
    **{("PENDING", action): BY_APPROVERS for action in DECISIONS},
    **{("PENDING", action): BY_APPROVERS_OR_ADMIN for action in OTHERS},
    ("PENDING", "CANCEL"): BY_OWNERS,
    ("CHANGES_REQUESTED", "CANCEL"): BY_OWNERS,
    ("CHANGES_REQUESTED", "RESUBMIT"): BY_OWNERS,
}
NEW_STATES: Final = {
    "REJECT": "REJECTED", "REQUEST_CHANGES": "CHANGES_REQUESTED", "CANCEL": "CANCELLED", "RESUBMIT": "PENDING",
}  # fmt: skip
"""The state after an allowed action. The others don't change it: after an approval, the next step is active."""
FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {"DELEGATE": {"target": "new"}, "ADD_APPROVER": {"target": "new"}}


Departures = Callable[[str], Awaitable[None]]


class RequestFactory:
    """Creates requests in any state."""

    def __init__(self, api: ApprovalsApi, admin: "asyncpg.Pool[asyncpg.Record]", departures: Departures) -> None:
        self.api, self.admin, self.departures = api, admin, departures

    async def create(self, state: str) -> Approval:
        """Create a request in a state."""
        approval = await self.api.submit()
        for user_id in ("leo", "lena", "rob"):
            await self.departures(user_id)
        await self._transitions[state](self, approval)
        current = await self.api.get(approval)
        assert Approval.State.Name(current.state) == state
        return current

    async def _to_opening(self, approval: Approval) -> None:
        statement = "update approvals.approval_requests set state = 'OPENING' where id = $1"
        await self.admin.execute(statement, ids.APPROVAL.parse(approval.id))

    async def _to_pending(self, approval: Approval) -> None:
        """Nothing to do: a new request is pending."""

    async def _to_approved(self, approval: Approval) -> None:
        await self.api.act("carla", approval)
        await self.api.act("zoe", approval)

    async def _to_cancelled(self, approval: Approval) -> None:
        await self.act("admin", "CANCEL", approval)

    async def _to_expired(self, approval: Approval) -> None:
        await expire(self.api, self.admin, approval)

    async def _to_rejected(self, approval: Approval) -> None:
        await self.act("approver", "REJECT", approval)

    async def _to_changes_requested(self, approval: Approval) -> None:
        await self.act("approver", "REQUEST_CHANGES", approval)

    _transitions: Final[Mapping[str, Callable[["RequestFactory", Approval], Awaitable[None]]]] = {
        "OPENING": _to_opening,
        "PENDING": _to_pending,
        "CHANGES_REQUESTED": _to_changes_requested,
        "APPROVED": _to_approved,
        "REJECTED": _to_rejected,
        "CANCELLED": _to_cancelled,
        "EXPIRED": _to_expired,
    }

    async def act(self, user: str, action: str, approval: Approval) -> Approval:
        """Perform an action as a kind of user."""
        caller: Caller = self.api.user(*USERS[user])
        stubs = self.api.stubs.approvals
        if action == "CANCEL":
            return await caller.call(stubs.CancelApproval, pb.CancelApprovalRequest(id=approval.id))
        if action == "RESUBMIT":
            return await caller.call(stubs.ResubmitApproval, pb.ResubmitApprovalRequest(id=approval.id))
        fields = {"comment": "because", **FIELDS.get(action, {})}
        return await self.api.act(caller, approval, ApprovalAction.Type.Value(action), **fields)


@pytest.fixture
def departures(approvals_served: Served[Approvals], tenant: UUID) -> Departures:
    """Delivers UserDeactivated; user management is not configured, so no user has a manager."""

    async def leave(user_id: str) -> None:
        replica = Replica(approvals_served.service, "approvals", tenant, actor="users")
        await replica.handle(UserDeactivated(user_id=user_id))

    return leave


@pytest.fixture
async def requests(api: ApprovalsApi, admin: "asyncpg.Pool[asyncpg.Record]", departures: Departures) -> RequestFactory:
    first = step("First", "carla", "ivan", "leo", "@finance", escalate_to=Approver(user_id="boss"), sla_hours=24)
    await api.create_rule(first, step("Second", "zoe", sla_hours=24), is_default=True)
    for delegator, delegate in (("carla", "dora"), ("ivan", "alice"), ("alice", "hugo"), ("leo", "nora")):
        await api.delegate(delegator, delegate)
    return RequestFactory(api, admin, departures)


def test_table_is_complete() -> None:
    assert set(TABLE) == set(itertools.product(STATES, ACTIONS))
    assert set(STATES) == set(Approval.State.keys()) - {"STATE_UNSPECIFIED"}
    act_on_approval = {"APPROVE", "REJECT", "REQUEST_CHANGES", "COMMENT", "DELEGATE", "ESCALATE", "ADD_APPROVER"}
    assert set(ACTIONS) == act_on_approval | {"CANCEL", "RESUBMIT"}
    assert all(set(reasons) == set(USERS) for reasons in TABLE.values())


@pytest.mark.parametrize("state", STATES)
async def test_actions_by_state_and_user(requests: RequestFactory, state: str) -> None:
    """Rejected actions and comments leave a request unchanged, so that all of them use the same one."""
    failures, shared = [], await requests.create(state)
    for action in ACTIONS:
        for user in USERS:
            expected = TABLE[state, action][user]
            approval = shared if expected or action == "COMMENT" else await requests.create(state)
            try:
                result = await requests.act(user, action, approval)
            except aio.AioRpcError as error:
                reason = Refusal.of(error).reason
                as_expected = (await requests.api.get(approval)).etag == approval.etag
            else:
                reason = OK
                as_expected = Approval.State.Name(result.state) == NEW_STATES.get(action, state)
            if reason != expected or not as_expected:
                result_text = f"{reason or 'OK'}, expected {expected or 'OK'}; state as expected: {as_expected}"
                failures.append(f"{action} by {user}: {result_text}")
    assert Approval.State.Name((await requests.api.get(shared)).state) == state
    assert not failures, "\n".join(failures)
