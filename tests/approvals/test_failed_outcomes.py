"""Outcomes that budgets fail to apply: the request shows the reason, and redriving the dead letter settles it."""

from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.operations.v1.operations_service_pb2 import RedriveDeadLetterRequest

from eventing.consumer import Consumer
from services.approvals import domain, service
from services.approvals.domain.approvals import ApprovalState, ReservationState
from services.budgets.service.approval_holds import ApprovalHolds
from tests.approvals.conftest import APPROVE, REJECT, ApprovalsApi, expire, step
from tests.harness.callers import Caller
from tests.harness.observe import eventually

CHANGES: Final = ApprovalAction.REQUEST_CHANGES
NOTHING: Final = ("0.00", "0.00", "0.00", "0.00", "100.00")
_LETTERS: Final = "select consumer, event_id from budgets.dead_letters where tenant_id = $1"

Redrive = Callable[[], Awaitable[None]]


@pytest.fixture
async def api(api: ApprovalsApi) -> ApprovalsApi:
    """The API with a default rule: carla decides on all requests."""
    await api.create_rule(step("Controlling", "carla"), is_default=True)
    return api


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets fail to apply outcomes until the patches are undone; pauses between deliveries are short."""

    async def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
    for method in ("apply", "release"):
        monkeypatch.setattr(ApprovalHolds, method, fail)


@pytest.fixture
def redrive(
    api: ApprovalsApi, caller: Callable[..., Caller], admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID
) -> Redrive:
    """Redrives the only dead letter of budgets."""

    async def redrive() -> None:
        letters = await eventually(lambda: admin.fetch(_LETTERS, tenant))
        (letter,) = letters
        request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        await caller("billing_admin").call(api.budgets.stubs.operations.RedriveDeadLetter, request)
        assert await admin.fetch(_LETTERS, tenant) == []

    return redrive


@pytest.mark.parametrize("request_type", [Approval.PURCHASE, Approval.BUDGET_INCREASE])
async def test_approval_that_was_not_applied_shows_the_reason_and_is_settled_later(
    api: ApprovalsApi, failing: None, redrive: Redrive, monkeypatch: pytest.MonkeyPatch,
    request_type: "Approval.Type.ValueType",
) -> None:  # fmt: skip
    budget = await api.budgets.open("100.00")
    approval = await api.submit(amount="60.00", budget_id=budget.id, request_type=request_type)
    await api.act("carla", approval, APPROVE)
    failed = await api.wait_for_funds(approval, Approval.FAILED)
    assert failed.funds_problem.startswith("Internal error; operators find it in the logs as ")
    assert (failed.state, failed.hold_id) == (Approval.APPROVED, approval.hold_id)
    monkeypatch.undo()
    await redrive()
    raised = request_type == Approval.BUDGET_INCREASE
    settled = await api.wait_for_funds(approval, Approval.RAISED if raised else Approval.COMMITTED)
    assert settled.funds_problem == ""
    assert (await api.amounts(budget))[-1] == ("160.00" if raised else "40.00")


@pytest.mark.parametrize("outcome", ["reject", "cancel", "return", "expire"])
async def test_hold_that_was_not_released_shows_the_reason_and_is_released_later(
    api: ApprovalsApi, failing: None, redrive: Redrive, monkeypatch: pytest.MonkeyPatch,
    admin: "asyncpg.Pool[asyncpg.Record]", outcome: str,
) -> None:  # fmt: skip
    budget = await api.budgets.open("100.00")
    approval = await api.submit(amount="60.00", budget_id=budget.id)
    match outcome:
        case "reject" | "return":
            await api.act("carla", approval, REJECT if outcome == "reject" else CHANGES, comment="no")
        case "cancel":
            cancel = pb.CancelApprovalRequest(id=approval.id)
            await api.user("alice").call(api.stubs.approvals.CancelApproval, cancel)
        case "expire":
            await expire(api, admin, approval)
    failed = await api.wait_for_funds(approval, Approval.FAILED)
    assert failed.funds_problem.startswith("Internal error; ")
    assert (await api.amounts(budget))[1] == "60.00"
    monkeypatch.undo()
    await redrive()
    assert (await api.wait_for_funds(approval, Approval.RELEASED)).funds_problem == ""
    assert await api.amounts(budget) == NOTHING


@pytest.mark.parametrize("action", [APPROVE, REJECT])
async def test_request_shows_that_its_settled_funds_were_not_recorded(
    api: ApprovalsApi, caller: Callable[..., Caller], admin: "asyncpg.Pool[asyncpg.Record]", tenant: UUID,
    monkeypatch: pytest.MonkeyPatch, action: "ApprovalAction.Type.ValueType",
) -> None:  # fmt: skip
    async def fail(*_: Any, problem: str, **fields: Any) -> None:
        if not problem:
            raise RuntimeError("a bug")
        await record(*_, problem=problem, **fields)

    record = service.approvals.record_reservation
    monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))
    monkeypatch.setattr(service.approvals, "record_reservation", fail)
    budget = await api.budgets.open("100.00")
    approval = await api.submit(amount="60.00", budget_id=budget.id)
    await api.act("carla", approval, action, comment="so")
    assert (await api.wait_for_funds(approval, Approval.FAILED)).funds_problem.startswith("Internal error; ")
    monkeypatch.undo()
    letters = "select consumer, event_id from approvals.dead_letters where tenant_id = $1"
    (letter,) = await admin.fetch(letters, tenant)
    request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
    await caller("billing_admin").call(api.stubs.operations.RedriveDeadLetter, request)
    settled = await api.wait_for_funds(approval, Approval.COMMITTED if action == APPROVE else Approval.RELEASED)
    assert settled.funds_problem == ""


_S, _R = ApprovalState, ReservationState


@pytest.mark.parametrize(
    ("state", "settlements", "final"),
    [
        (_S.APPROVED, [_R.RELEASED, _R.FAILED], _R.FAILED),  # the budget refused the amount
        (_S.APPROVED, [_R.FAILED, _R.RELEASED], _R.FAILED),
        (_S.APPROVED, [_R.FAILED, _R.COMMITTED], _R.COMMITTED),
        (_S.APPROVED, [_R.COMMITTED, _R.FAILED], _R.COMMITTED),  # it failed after the commit, and was delivered late
        (_S.APPROVED, [_R.FAILED, _R.RAISED], _R.RAISED),
        (_S.REJECTED, [_R.FAILED, _R.RELEASED], _R.RELEASED),
        (_S.CHANGES_REQUESTED, [_R.RELEASED, _R.FAILED], _R.RELEASED),
        (_S.EXPIRED, [_R.FAILED], _R.FAILED),
        (_S.CANCELLED, [_R.RELEASED], _R.RELEASED),
    ],
)
def test_settlements_have_one_result_in_any_order(
    state: ApprovalState, settlements: list[ReservationState], final: ReservationState
) -> None:
    current = ReservationState.HELD
    for settlement in settlements:
        if domain.approvals.settles(state, current, settlement):
            current = settlement
    assert current is final
