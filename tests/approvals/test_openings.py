"""What dies between two writes while a request is opened is finished or undone, and no money stays behind.

The places, by name: after the request was kept (KEPT), after its money was held (HELD), after a refusal was kept
(REFUSED), and after what it held was called off (CALLED_OFF). A process that dies there is one whose use case was
cancelled there: what is kept is all that another one has.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import pytest
from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction

from contract.values import money_from_proto
from kit import ids
from kit.errors import Conflict
from kit.origin import Origin
from kit.telemetry import Trace
from services.approvals.clients import Budgets as BudgetsPeer
from services.approvals.service.opening import Opening
from tests.approvals.conftest import ApprovalsApi, step
from tests.harness.callers import refusal
from tests.harness.services import Approvals, Served

KEPT, HELD, REFUSED, CALLED_OFF = "KEPT", "HELD", "REFUSED", "CALLED_OFF"
WITH_ROOM: Final = (KEPT, HELD)
WITHOUT_ROOM: Final = (KEPT, REFUSED, CALLED_OFF)


@pytest.fixture
def opening(approvals_served: Served[Approvals]) -> Opening:
    """What opens requests, in the served process."""
    found: Any = approvals_served.service.servicers[0]
    return found._opening  # type: ignore[no-any-return]  # it is one


@pytest.fixture
def origin(tenant: UUID) -> Origin:
    return Origin(
        tenant_id=tenant, actor="service:approvals", trace=Trace.from_header(None), deadline=time.monotonic() + 20
    )


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the process die at a place."""
    hold, release = BudgetsPeer.hold, BudgetsPeer.release

    def at(place: str) -> None:
        async def dying_hold(*given: Any, **named: Any) -> UUID:
            if place == KEPT:
                raise RuntimeError(place)
            held = await hold(*given, **named)
            if place == HELD:
                raise RuntimeError(place)
            return held

        async def dying_release(*given: Any, **named: Any) -> None:
            if place == REFUSED:
                raise RuntimeError(place)
            await release(*given, **named)
            if place == CALLED_OFF:
                raise RuntimeError(place)

        monkeypatch.setattr(BudgetsPeer, "hold", dying_hold)
        monkeypatch.setattr(BudgetsPeer, "release", dying_release)

    return at


async def of_budget(api: ApprovalsApi, budget_id: str) -> list[Approval]:
    request = pb.ListApprovalsRequest(budget_id=budget_id)
    return list((await api.admin.call(api.stubs.approvals.ListApprovals, request)).approvals)


async def stranded(
    api: ApprovalsApi, die: Callable[[str], None], place: str, amount: str, budget_id: str
) -> pb.CreateApprovalRequest:
    """A request whose opening died at a place; what is kept of it."""
    request = api.request(amount, budget_id=budget_id)
    die(place)
    refused = await refusal(api.of("alice", "procurement").call(api.stubs.approvals.CreateApproval, request))
    assert refused.reason == "INTERNAL"
    assert [one.state for one in await of_budget(api, budget_id)] == [Approval.OPENING]
    return request


@pytest.mark.parametrize("place", WITH_ROOM)
@pytest.mark.parametrize("healer", ["the same key", "the clock"])
async def test_with_room_it_is_opened(
    api: ApprovalsApi, opening: Opening, origin: Origin, die: Callable[[str], None], monkeypatch: pytest.MonkeyPatch,
    place: str, healer: str,
) -> None:  # fmt: skip
    await api.rule(step("C", "carla"))
    budget = await api.budgets.open("100.00")
    request = await stranded(api, die, place, "60.00", budget.id)
    monkeypatch.undo()
    (kept,) = await of_budget(api, budget.id)
    if healer == "the clock":
        await opening.recover(origin, ids.APPROVAL.parse(kept.id))
    again = await api.of("alice", "procurement").call(api.stubs.approvals.CreateApproval, request)
    assert (again.id, again.state, again.funds) == (kept.id, Approval.PENDING, Approval.HELD)
    assert await api.numbers(budget) == ("0.00", "60.00", "0.00", "0.00", "40.00")
    assert await api.inbox("carla") == [kept.id]
    assert len(await api.history(again)) == 1


@pytest.mark.parametrize("place", WITHOUT_ROOM)
@pytest.mark.parametrize("healer", ["the same key", "the clock"])
async def test_without_room_nothing_is_left(
    api: ApprovalsApi, opening: Opening, origin: Origin, die: Callable[[str], None], monkeypatch: pytest.MonkeyPatch,
    place: str, healer: str,
) -> None:  # fmt: skip
    await api.rule(step("C", "carla"))
    budget = await api.budgets.open("100.00")
    request = await stranded(api, die, place, "101.00", budget.id)
    monkeypatch.undo()
    (kept,) = await of_budget(api, budget.id)
    if healer == "the clock":
        await opening.recover(origin, ids.APPROVAL.parse(kept.id))
    else:
        call = api.of("alice", "procurement").call(api.stubs.approvals.CreateApproval, request)
        assert (await refusal(call)).reason == "BUDGET_EXCEEDED"
    assert await of_budget(api, budget.id) == []
    assert await api.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")


async def test_only_whoever_asked_goes_on_with_what_they_submitted_again(
    api: ApprovalsApi, die: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.rule(step("C", "carla"))
    budget = await api.budgets.open("100.00")
    asked = await api.ask(amount="60.00", budget_id=budget.id)
    await api.act("carla", asked, ApprovalAction.REQUEST_CHANGES, comment="more?")

    async def again(who: str, amount: str) -> Approval:
        request = pb.ResubmitApprovalRequest(id=asked.id, amount=api.request(amount).amount)
        return await api.of(who, "procurement").call(api.stubs.approvals.ResubmitApproval, request)

    die(KEPT)
    assert (await refusal(again("alice", "70.00"))).reason == "INTERNAL"
    monkeypatch.undo()
    assert (await api.get(asked)).state == Approval.OPENING
    assert (await refusal(again("mallory", "70.00"))).reason == "NOT_THE_REQUESTER"
    assert (await refusal(again("alice", "80.00"))).reason == "APPROVAL_STATE"
    opened = await again("alice", "70.00")
    assert (opened.state, opened.round, opened.amount.amount) == (Approval.PENDING, 2, "70.00")
    assert await api.numbers(budget) == ("0.00", "70.00", "0.00", "0.00", "30.00")


@pytest.mark.parametrize("place", [REFUSED, CALLED_OFF])
async def test_a_resubmit_that_its_budget_refused_is_undone_by_the_next_one(
    api: ApprovalsApi, die: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    await api.rule(step("C", "carla"))
    budget = await api.budgets.open("100.00")
    asked = await api.ask(amount="60.00", budget_id=budget.id)
    await api.act("carla", asked, ApprovalAction.REQUEST_CHANGES, comment="more?")
    await api.settled(asked, Approval.RELEASED)
    alice = api.of("alice", "procurement")

    def again(amount: str) -> Awaitable[Approval]:
        request = pb.ResubmitApprovalRequest(id=asked.id, amount=api.request(amount).amount)
        return alice.call(api.stubs.approvals.ResubmitApproval, request)

    patched = BudgetsPeer.release
    die(place)
    real, counted = BudgetsPeer.release, 0

    async def second(*given: Any, **named: Any) -> None:
        """The first release is of the earlier round."""
        nonlocal counted
        counted += 1
        await (patched if counted == 1 else real)(*given, **named)

    monkeypatch.setattr(BudgetsPeer, "release", second)
    assert (await refusal(again("101.00"))).reason == "INTERNAL"
    monkeypatch.undo()
    assert (await api.get(asked)).state == Approval.OPENING
    assert (await refusal(again("101.00"))).reason == "BUDGET_EXCEEDED"
    opened = await again("90.00")
    assert (opened.state, opened.amount.amount) == (Approval.PENDING, "90.00")
    assert await api.numbers(budget) == ("0.00", "90.00", "0.00", "0.00", "10.00")


async def test_a_hold_that_comes_after_it_was_called_off_is_kept_out(
    api: ApprovalsApi, opening: Opening, origin: Origin
) -> None:
    budget = await api.budgets.open("100.00")
    approval_id, budget_id = ids.new(), ids.BUDGET.parse(budget.id)
    peer = opening.clients.budgets
    await peer.release(origin, approval_id, of_round=1, budget_id=budget_id)
    amount = api.request("10.00").amount
    with pytest.raises(Conflict):
        await peer.hold(
            origin, approval_id, of_round=1, budget_id=budget_id, amount=money_from_proto(amount), description="late"
        )
    assert await api.numbers(budget) == ("0.00", "0.00", "0.00", "0.00", "100.00")
