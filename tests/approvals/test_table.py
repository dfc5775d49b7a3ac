"""Every state of a request with every action of everybody, through the RPCs, as one table.

Carla and anybody of finance are asked first, then Zoe. Dora decides for Carla. Alice asks; she comes once as a manager,
once with the role that is asked.
"""

import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import asyncpg
import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import Approver
from grpc import aio

from kit import ids
from tests.approvals.conftest import ApprovalsApi, expire, step
from tests.harness.callers import Caller, Refusal

OK: Final = ""
STATE, NOT_ASKED, SELF = "APPROVAL_STATE", "NOT_AN_APPROVER", "SELF_APPROVAL"
NOT_THEIRS, NO_PERMISSION = "NOT_THE_REQUESTER", "PERMISSION_MISSING"

WHO: Final[Mapping[str, tuple[str, str]]] = {
    "asked": ("carla", "department_manager"),
    "of the role": ("emil", "finance"),
    "delegate": ("dora", "department_manager"),
    "of a later step": ("zoe", "department_manager"),
    "requester": ("alice", "department_manager"),
    "requester of the role": ("alice", "finance"),
    "admin": ("root", "billing_admin"),
    "stranger": ("mallory", "department_manager"),
    "viewer": ("vera", "viewer"),
}
DECIDES: Final = {"asked": OK, "of the role": OK, "delegate": OK}
THEIRS: Final = {"requester": OK, "requester of the role": OK, "admin": OK}


def row(usual: str, **but: str) -> Mapping[str, str]:
    """What each of them is told."""
    return {**dict.fromkeys(WHO, usual), "viewer": NO_PERMISSION, **but}


DECISION: Final = row(NOT_ASKED, **{**DECIDES, "requester of the role": SELF})
HELP: Final = row(NOT_ASKED, **{**DECIDES, "requester of the role": OK, "admin": OK})
TALK: Final = row(OK)
OWN: Final = row(NOT_THEIRS, **THEIRS)
OWN_TOO_LATE: Final = row(NOT_THEIRS, **dict.fromkeys(THEIRS, STATE))
TOO_LATE: Final = row(STATE)

DECISIONS: Final = ("APPROVE", "REJECT", "REQUEST_CHANGES", "DELEGATE")
HELPS: Final = ("ESCALATE", "ADD_APPROVER")
ACTIONS: Final = (*DECISIONS, *HELPS, "COMMENT", "CANCEL", "RESUBMIT")
STATES: Final = ("OPENING", "PENDING", "CHANGES_REQUESTED", "APPROVED", "REJECTED", "CANCELLED", "EXPIRED")

TABLE: Final[Mapping[tuple[str, str], Mapping[str, str]]] = {
    **{(state, action): TOO_LATE for state in STATES for action in (*DECISIONS, *HELPS)},
    **{(state, action): OWN_TOO_LATE for state in STATES for action in ("CANCEL", "RESUBMIT")},
    **{(state, "COMMENT"): TALK for state in STATES},
    **{("PENDING", action): DECISION for action in DECISIONS},
    **{("PENDING", action): HELP for action in HELPS},
    ("PENDING", "CANCEL"): OWN,
    ("CHANGES_REQUESTED", "CANCEL"): OWN,
    ("CHANGES_REQUESTED", "RESUBMIT"): OWN,
}
AFTERWARDS: Final = {
    "REJECT": "REJECTED", "REQUEST_CHANGES": "CHANGES_REQUESTED", "CANCEL": "CANCELLED", "RESUBMIT": "PENDING",
}  # fmt: skip
"""The state that an allowed action leads to; the others leave it as it is, since Zoe is asked after the first step."""
GIVEN: Final[Mapping[str, Mapping[str, Any]]] = {"DELEGATE": {"target": "new"}, "ADD_APPROVER": {"target": "new"}}


class Stage:
    """Requests in any state."""

    def __init__(self, api: ApprovalsApi, admin: "asyncpg.Pool[asyncpg.Record]") -> None:
        self.api, self.admin = api, admin

    async def request(self, state: str) -> Approval:
        """A new request in a state."""
        asked = await self.api.ask()
        await self._bring[state](self, asked)
        seen = await self.api.get(asked)
        assert Approval.State.Name(seen.state) == state
        return seen

    async def _opening(self, asked: Approval) -> None:
        statement = "update approvals.approval_requests set state = 'OPENING' where id = $1"
        await self.admin.execute(statement, ids.APPROVAL.parse(asked.id))

    async def _pending(self, asked: Approval) -> None:
        """It is."""

    async def _approved(self, asked: Approval) -> None:
        await self.api.act("carla", asked)
        await self.api.act("zoe", asked)

    async def _cancelled(self, asked: Approval) -> None:
        await self.tell("admin", "CANCEL", asked)

    async def _expired(self, asked: Approval) -> None:
        await expire(self.api, self.admin, asked)

    async def _refused(self, asked: Approval) -> None:
        await self.tell("asked", "REJECT", asked)

    async def _sent_back(self, asked: Approval) -> None:
        await self.tell("asked", "REQUEST_CHANGES", asked)

    _bring: Final[Mapping[str, Callable[["Stage", Approval], Awaitable[None]]]] = {
        "OPENING": _opening, "PENDING": _pending, "CHANGES_REQUESTED": _sent_back, "APPROVED": _approved,
        "REJECTED": _refused, "CANCELLED": _cancelled, "EXPIRED": _expired,
    }  # fmt: skip

    async def tell(self, who: str, action: str, asked: Approval) -> Approval:
        """Have somebody do something to a request."""
        caller: Caller = self.api.of(*WHO[who])
        stubs = self.api.stubs.approvals
        if action == "CANCEL":
            return await caller.call(stubs.CancelApproval, pb.CancelApprovalRequest(id=asked.id))
        if action == "RESUBMIT":
            return await caller.call(stubs.ResubmitApproval, pb.ResubmitApprovalRequest(id=asked.id))
        given = {"comment": "so", **GIVEN.get(action, {})}
        return await self.api.act(caller, asked, ApprovalAction.Type.Value(action), **given)


@pytest.fixture
async def stage(api: ApprovalsApi, admin: "asyncpg.Pool[asyncpg.Record]") -> Stage:
    first = step("First", "carla", "@finance", escalate_to=Approver(user_id="boss"), sla_hours=24)
    await api.rule(first, step("Second", "zoe", sla_hours=24), is_default=True)
    await api.delegate("carla", "dora")
    return Stage(api, admin)


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(itertools.product(STATES, ACTIONS))
    assert set(STATES) == set(Approval.State.keys()) - {"STATE_UNSPECIFIED"}
    by_somebody = {"APPROVE", "REJECT", "REQUEST_CHANGES", "COMMENT", "DELEGATE", "ESCALATE", "ADD_APPROVER"}
    assert set(ACTIONS) == by_somebody | {"CANCEL", "RESUBMIT"}
    assert all(set(told) == set(WHO) for told in TABLE.values())


@pytest.mark.parametrize("state", STATES)
async def test_everybody_does_everything(stage: Stage, state: str) -> None:
    """What is refused, and what is said, leaves a request as it was: one is there for all of that."""
    wrong, kept = [], await stage.request(state)
    for action in ACTIONS:
        told = TABLE[state, action]
        for who in WHO:
            asked = kept if told[who] or action == "COMMENT" else await stage.request(state)
            try:
                seen = await stage.tell(who, action, asked)
            except aio.AioRpcError as error:
                answer = Refusal.of(error).reason
                unchanged = (await stage.api.get(asked)).etag == asked.etag
            else:
                answer, after = OK, AFTERWARDS.get(action, state)
                unchanged = Approval.State.Name(seen.state) == after
            if (answer, unchanged) != (told[who], True):
                wrong.append(f"{action} by {who}: {answer or 'ok'}, not {told[who] or 'ok'}; as expected: {unchanged}")
    assert Approval.State.Name((await stage.api.get(kept)).state) == state
    assert not wrong, "\n".join(wrong)
