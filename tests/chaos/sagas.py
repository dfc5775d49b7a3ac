"""Requests and their money while somebody dies between two of their writes; each story at each place, with each victim.

A story is told by people who repeat what they do with the same key until there is an answer, or, where it is called
abandoned, who go away after the first try. What dies comes back. In the end budgets hold and commit what the requests
say, nobody decided twice, and what was refused has left nothing behind.
"""

import asyncio
import contextlib
import json
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.budgets.v1.budget_pb2 import Budget
from grpc import StatusCode, aio

from deploy.local import die_with_parent, servers
from deploy.local.servers import Nats, Running
from tests.approvals.conftest import REJECT, ApprovalsApi, eur, step
from tests.budgets.budgets_api import BudgetsApi
from tests.chaos.faults import APPROVALS, BUDGETS, FOLDER, NATS, file_of
from tests.chaos.stage import CHANNEL, Replica, environment
from tests.harness.callers import Caller, Refusal, ReplyT, RequestT
from tests.harness.databases import Copy
from tests.harness.observe import eventually
from tests.harness.services import Approvals, Budgets, Entities
from tests.harness.tokens import Keys

PATIENCE_S: Final = 60.0
STRUCK_WITHIN_S: Final = 90.0
"""More than the clock takes to go on with what was abandoned, and NATS to hand out again what a dead process took."""
HEALED_WITHIN_S: Final = 120.0
_PASSING: Final = {
    StatusCode.UNAVAILABLE, StatusCode.ABORTED, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNKNOWN, StatusCode.CANCELLED,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PatientCaller(Caller):
    """Somebody who asks again until there is an answer."""

    async def call(
        self, rpc: aio.UnaryUnaryMultiCallable[RequestT, ReplyT], request: RequestT, *, within_s: float = PATIENCE_S
    ) -> ReplyT:
        """The reply, as soon as there is one."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                return await rpc(request, metadata=self.metadata, timeout=10.0)
            except aio.AioRpcError as error:
                if error.code() not in _PASSING or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a story ends."""

    state: str
    """Of the request; empty where none is left."""
    funds: str
    numbers: tuple[str, str, str, str, str]
    """What of its budget is spent, held, committed, captured and available."""
    decisions: int = 0


async def approved(api: ApprovalsApi, budget: Budget) -> None:
    asked = await api.submit(amount="60.00", budget_id=budget.id)
    await api.act("carla", asked, request_id=uuid4().hex)


async def rejected(api: ApprovalsApi, budget: Budget) -> None:
    asked = await api.submit(amount="60.00", budget_id=budget.id)
    await api.act("carla", asked, REJECT, comment="no", request_id=uuid4().hex)


async def sent_back(api: ApprovalsApi, budget: Budget) -> None:
    asked = await api.submit(amount="60.00", budget_id=budget.id)
    await api.act("carla", asked, ApprovalAction.REQUEST_CHANGES, comment="more?", request_id=uuid4().hex)
    request = pb.ResubmitApprovalRequest(id=asked.id, amount=eur("70.00"), request_id=uuid4().hex)
    again = await api.user("alice", "procurement").call(api.stubs.approvals.ResubmitApproval, request)
    await api.act("carla", again, request_id=uuid4().hex)


async def without_room(api: ApprovalsApi, budget: Budget) -> None:
    try:
        await api.submit(amount="100.01", budget_id=budget.id)
    except aio.AioRpcError as error:
        assert Refusal.of(error).reason == "BUDGET_EXCEEDED", error
        return
    raise AssertionError("it was taken")


async def overspent(api: ApprovalsApi, budget: Budget) -> None:
    asked = await api.submit(amount="150.00", budget_id=budget.id, overspend=True)
    await api.act("carla", asked, request_id=uuid4().hex)


async def raised(api: ApprovalsApi, budget: Budget) -> None:
    asked = await api.submit(amount="25.00", budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
    await api.act("carla", asked, request_id=uuid4().hex)


async def raised_when_closed(api: ApprovalsApi, budget: Budget) -> None:
    asked = await api.submit(amount="25.00", budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
    await api.budgets.close(budget)
    await api.act("carla", asked, request_id=uuid4().hex)


async def abandoned(api: ApprovalsApi, budget: Budget) -> None:
    await _once(api, api.new_request("60.00", budget_id=budget.id))


async def abandoned_without_room(api: ApprovalsApi, budget: Budget) -> None:
    await _once(api, api.new_request("100.01", budget_id=budget.id))


async def _once(api: ApprovalsApi, request: pb.CreateApprovalRequest) -> None:
    with contextlib.suppress(aio.AioRpcError):
        metadata = api.user("alice", "procurement").metadata
        await api.stubs.approvals.CreateApproval(request, metadata=metadata, timeout=10.0)


STORIES: Final[Mapping[Callable[[ApprovalsApi, Budget], Awaitable[None]], Ending]] = {
    approved: Ending("APPROVED", "COMMITTED", ("0.00", "0.00", "60.00", "0.00", "40.00"), 1),
    rejected: Ending("REJECTED", "RELEASED", ("0.00", "0.00", "0.00", "0.00", "100.00"), 1),
    sent_back: Ending("APPROVED", "COMMITTED", ("0.00", "0.00", "70.00", "0.00", "30.00"), 2),
    without_room: Ending("", "", ("0.00", "0.00", "0.00", "0.00", "100.00")),
    overspent: Ending("APPROVED", "COMMITTED", ("0.00", "0.00", "150.00", "0.00", "-50.00"), 1),
    raised: Ending("APPROVED", "RAISED", ("0.00", "0.00", "0.00", "0.00", "125.00"), 1),
    raised_when_closed: Ending("APPROVED", "FAILED", ("0.00", "0.00", "0.00", "0.00", "100.00"), 1),
    abandoned: Ending("PENDING", "HELD", ("0.00", "60.00", "0.00", "0.00", "40.00")),
    abandoned_without_room: Ending("", "", ("0.00", "0.00", "0.00", "0.00", "100.00")),
}
"""What happens, and how it ends."""

WHERE: Final[Mapping[Callable[[ApprovalsApi, Budget], Awaitable[None]], Mapping[str, Sequence[str]]]] = {
    approved: {
        APPROVALS: (
            "kept, not held", "held, not asked", "asked, not committed", "asked, not answered",
            "asked and published, not marked", "decided, not committed", "decided, not answered",
            "decided, not published", "decided and published, not marked", "noted, not committed",
            "noted, not acknowledged",
        ),
        BUDGETS: (
            "hold written, not committed", "held, not answered", "outcome heard", "commit written, not committed",
            "commit done", "followed, not acknowledged", "followed, not published",
            "followed and published, not marked",
        ),
    },
    rejected: {
        APPROVALS: ("decided, not committed", "decided, not answered", "decided, not published"),
        BUDGETS: (
            "outcome heard", "release written, not committed", "release done", "followed, not acknowledged",
            "followed, not published",
        ),
    },
    sent_back: {
        APPROVALS: ("given back, not kept again", "kept again, not held", "decided and published, not marked"),
        BUDGETS: ("called off, not answered", "release written, not committed", "release done"),
    },
    without_room: {
        APPROVALS: ("kept, not held", "refused, not called off", "called off, not undone"),
        BUDGETS: ("calling off, not committed", "called off, not answered"),
    },
    overspent: {
        BUDGETS: ("hold written, not committed", "held, not answered", "commit written, not committed", "commit done"),
    },
    raised: {
        BUDGETS: ("raise written, not committed", "raise done", "followed, not acknowledged"),
    },
    raised_when_closed: {
        BUDGETS: ("failure written, not committed", "failure done"),
    },
    abandoned: {
        APPROVALS: ("kept, not held", "held, not asked", "asked, not committed"),
        BUDGETS: ("hold written, not committed", "held, not answered"),
    },
    abandoned_without_room: {
        APPROVALS: ("refused, not called off", "called off, not undone"),
        BUDGETS: ("calling off, not committed", "called off, not answered"),
    },
}  # fmt: skip
"""The places that a story passes, in its order; see faults.PLACES."""


_OF_EVENTS: Final = re.compile("published|heard|acknowledged")


@dataclass(frozen=True, slots=True)
class Case:
    """A story in which somebody dies at a place."""

    story: Callable[[ApprovalsApi, Budget], Awaitable[None]]
    service: str
    place: str
    victim: str

    def __str__(self) -> str:
        return f"{self.story.__name__}: {self.service} at {self.place!r}, {self.victim} dies"


def cases(*, everybody: bool) -> Sequence[Case]:
    """Each story at each place; everybody dies there in turn, or else whoever is there, and NATS where events are."""
    return [
        Case(story, service, place, victim)
        for story, places in WHERE.items()
        for service, named in places.items()
        for place in named
        for victim in (APPROVALS, BUDGETS, NATS)
        if everybody or victim == service or (victim == NATS and story is approved and _OF_EVENTS.search(place))
    ]


class Stage:
    """Two services and a NATS that come back whenever they were killed."""

    def __init__(self, folder: Path, nats: Running[Nats], replicas: Mapping[str, Replica]) -> None:
        self.folder, self.nats, self.replicas = folder, nats, replicas
        self.deaths = Counter[str]()
        self.noted: dict[str, int] = {}
        self.reviving: list[asyncio.Task[None]] = []

    def arm(self, case: Case) -> Path:
        """Have somebody die at a place; gives the file that is there until then."""
        armed = self.folder / file_of(case.service, case.place)
        armed.write_text(case.victim)
        return armed

    async def whole(self) -> bool:
        """Whether all are there, and known to those who strike."""
        for task in self.reviving:
            if task.done():
                task.result()  # it failed: nobody comes back any more
        there = all(replica.pid == self.noted[name] for name, replica in self.replicas.items())
        return there and bool(die_with_parent.command_line(self.noted[NATS]))

    def note(self, name: str, pid: int) -> None:
        """Let those who strike know whom."""
        self.noted[name] = pid
        draft = self.folder / f"{name}.draft"
        draft.write_text(str(pid))
        draft.rename(self.folder / f"{name}.pid")

    async def start(self) -> None:
        """Start the services."""
        self.note(NATS, self.nats.pid)
        await asyncio.gather(*(self._start(name) for name in self.replicas))

    async def _start(self, name: str) -> None:
        await self.replicas[name].start()
        self.note(name, self.replicas[name].pid)

    async def revive(self, name: str) -> None:
        """Start a service again whenever it is gone, until cancelled."""
        while True:
            if not self.replicas[name].pid:
                self.deaths[name] += 1
                await self._start(name)
            await asyncio.sleep(0.02)

    async def revive_nats(self) -> None:
        """Start NATS again whenever it is gone, until cancelled."""
        while True:
            if not die_with_parent.command_line(self.noted[NATS]):
                self.deaths[NATS] += 1
                await asyncio.to_thread(self._restart_nats)
            await asyncio.sleep(0.02)

    def _restart_nats(self) -> None:
        self.nats.kill()
        self.nats.start()
        self.note(NATS, self.nats.pid)


@contextlib.asynccontextmanager
async def staged(database: Copy, keys: Keys, entities: str, folder: Path) -> AsyncIterator[Stage]:
    """Approvals and budgets as processes that may die, with a NATS of their own."""
    faults = folder / "faults"
    faults.mkdir()
    with servers.nats(folder / "nats") as nats:
        addresses = {"entities": entities}
        replicas = {}
        for name in (BUDGETS, APPROVALS):
            told = environment(name, database, nats.url, keys) | {FOLDER: str(faults)}
            told["BILLING_ADDRESSES"] = json.dumps(addresses)
            replicas[name] = Replica("tests.chaos.faults", told, folder, f"services.{name}.main")
            addresses[name] = replicas[name].address
        stage = Stage(faults, nats, replicas)
        await stage.start()
        stage.reviving = [asyncio.create_task(stage.revive(name)) for name in replicas]
        stage.reviving.append(asyncio.create_task(stage.revive_nats()))
        try:
            yield stage
        finally:
            for task in stage.reviving:
                task.cancel()
            await asyncio.gather(*stage.reviving, return_exceptions=True)
            await asyncio.gather(*(replica.end(signal.SIGTERM) for replica in replicas.values()))


class Theatre:
    """Plays cases, one after the other, and looks at all of them in the end."""

    def __init__(self, stage: Stage, api: ApprovalsApi) -> None:
        self.stage, self.api = stage, api
        self.played: list[tuple[Case, Budget]] = []

    async def play(self, case: Case) -> None:
        """Tell a story in which somebody dies; raises where nobody did."""
        policy = Budget.REQUIRE_APPROVAL if case.story is overspent else Budget.BLOCK
        budget = await self.api.budgets.open("100.00", overspend_policy=policy)
        await eventually(self.stage.whole, within_s=PATIENCE_S)
        await self._connected(budget)
        armed = self.stage.arm(case)
        await case.story(self.api, budget)
        self.played.append((case, budget))

        async def struck() -> bool:
            return not armed.exists()

        await eventually(struck, within_s=STRUCK_WITHIN_S, about=str(case))

    async def _connected(self, budget: Budget) -> None:
        """Wait until approvals reaches budgets again: who goes away after one try must get as far as the place."""
        await self.api.submit(amount="1.00", budget_id=budget.id, validate_only=True)

    async def ended(self, budget: Budget) -> Ending:
        """How a story has ended so far."""
        listing = pb.ListApprovalsRequest(budget_id=budget.id)
        found = (await self.api.admin.call(self.api.stubs.approvals.ListApprovals, listing)).approvals
        numbers = await self.api.amounts(budget)
        if not found:
            return Ending("", "", numbers)
        (asked,) = found
        decided = [one for one in await self.api.history(asked) if one.actor == "carla"]
        state, funds = Approval.State.Name(asked.state), Approval.Funds.Name(asked.funds)
        return Ending(state, funds, numbers, len(decided))

    async def unhealed(self) -> Sequence[str]:
        """The cases that have not ended as they should."""
        told = []
        for case, budget in self.played:
            ended = await self.ended(budget)
            if ended != STORIES[case.story]:
                told.append(f"{case}: {ended}, not {STORIES[case.story]}")
        return told

    async def healed(self) -> None:
        """Wait until all cases have ended as they should, and stay so; raises AssertionError."""
        deadline = time.monotonic() + HEALED_WITHIN_S
        while unhealed := await self.unhealed():
            assert time.monotonic() < deadline, "\n".join(unhealed)
            await asyncio.sleep(0.5)
        await self.api.budgets.verify(*(budget for _, budget in self.played))


@contextlib.asynccontextmanager
async def theatre(stage: Stage, keys: Keys, entities: Entities) -> AsyncIterator[Theatre]:
    """People of a company who are patient, and a rule: Carla decides on everything."""
    tenant = uuid4()

    def caller(role: str = "finance", subject: str = "alice") -> Caller:
        return PatientCaller(tenant, subject, keys.token(tenant, role=role, subject=subject, exp=_in_an_hour()))

    async with (
        aio.insecure_channel(stage.replicas[APPROVALS].address, options=CHANNEL) as approvals,
        aio.insecure_channel(stage.replicas[BUDGETS].address, options=CHANNEL) as budgets,
    ):
        budget_api = BudgetsApi(caller(), Budgets(budgets), entities)
        api = ApprovalsApi(caller, Approvals(approvals), budget_api)
        budget_api.entity_id = await budget_api.company()
        await api.create_rule(step("Controlling", "carla"), is_default=True)
        yield Theatre(stage, api)


def _in_an_hour() -> int:
    return int(time.time()) + 3600
