"""Crash scenarios of approval requests and their holds: each scenario with a crash at each of its crash points.

The users of a scenario retry each call with the same key until there is a response; in the `abandon…` scenarios they
call once. Killed processes are restarted. In the end, the amounts of each budget match its request, no decision was
recorded twice, and requests that exceed their budget have left no row and no hold.
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
from typing import Final, TypeAlias
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

RETRY_FOR_S: Final = 60.0
CRASH_WITHIN_S: Final = 90.0
"""Longer than the delay of the opening timer, and than the redelivery of events that a killed process had received."""
RECOVER_WITHIN_S: Final = 120.0
_RETRIED: Final = {
    StatusCode.UNAVAILABLE, StatusCode.ABORTED, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNKNOWN, StatusCode.CANCELLED,
}  # fmt: skip

Scenario: TypeAlias = Callable[[ApprovalsApi, Budget], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RetryingCaller(Caller):
    """A caller that retries until there is a response."""

    async def call(
        self, rpc: aio.UnaryUnaryMultiCallable[RequestT, ReplyT], request: RequestT, *, within_s: float = RETRY_FOR_S
    ) -> ReplyT:
        """Call until there is a reply or an error that a crash does not cause; return the reply or raise the error."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                return await rpc(request, metadata=self.metadata, timeout=10.0)
            except aio.AioRpcError as error:
                if error.code() not in _RETRIED or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Result:
    """The request and budget of a scenario after its end."""

    state: str
    """State of the request; empty if there is none."""
    funds: str
    amounts: tuple[str, str, str, str, str]
    """Spent, held, committed, captured and available amounts of the budget."""
    decisions: int = 0


async def approve(api: ApprovalsApi, budget: Budget) -> None:
    approval = await api.submit(amount="60.00", budget_id=budget.id)
    await api.act("carla", approval, request_id=uuid4().hex)


async def reject(api: ApprovalsApi, budget: Budget) -> None:
    approval = await api.submit(amount="60.00", budget_id=budget.id)
    await api.act("carla", approval, REJECT, comment="no", request_id=uuid4().hex)


async def request_changes(api: ApprovalsApi, budget: Budget) -> None:
    approval = await api.submit(amount="60.00", budget_id=budget.id)
    await api.act("carla", approval, ApprovalAction.REQUEST_CHANGES, comment="more?", request_id=uuid4().hex)
    request = pb.ResubmitApprovalRequest(id=approval.id, amount=eur("70.00"), request_id=uuid4().hex)
    resubmitted = await api.user("alice", "procurement").call(api.stubs.approvals.ResubmitApproval, request)
    await api.act("carla", resubmitted, request_id=uuid4().hex)


async def exceed_budget(api: ApprovalsApi, budget: Budget) -> None:
    try:
        await api.submit(amount="100.01", budget_id=budget.id)
    except aio.AioRpcError as error:
        assert Refusal.of(error).reason == "BUDGET_EXCEEDED", error
        return
    raise AssertionError("the request was accepted")


async def overspend(api: ApprovalsApi, budget: Budget) -> None:
    approval = await api.submit(amount="150.00", budget_id=budget.id, overspend=True)
    await api.act("carla", approval, request_id=uuid4().hex)


async def increase(api: ApprovalsApi, budget: Budget) -> None:
    approval = await api.submit(amount="25.00", budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
    await api.act("carla", approval, request_id=uuid4().hex)


async def increase_closed_budget(api: ApprovalsApi, budget: Budget) -> None:
    approval = await api.submit(amount="25.00", budget_id=budget.id, request_type=Approval.BUDGET_INCREASE)
    await api.budgets.close(budget)
    await api.act("carla", approval, request_id=uuid4().hex)


async def abandon(api: ApprovalsApi, budget: Budget) -> None:
    await _call_once(api, api.new_request("60.00", budget_id=budget.id))


async def abandon_exceeding_budget(api: ApprovalsApi, budget: Budget) -> None:
    await _call_once(api, api.new_request("100.01", budget_id=budget.id))


async def _call_once(api: ApprovalsApi, request: pb.CreateApprovalRequest) -> None:
    with contextlib.suppress(aio.AioRpcError):
        metadata = api.user("alice", "procurement").metadata
        await api.stubs.approvals.CreateApproval(request, metadata=metadata, timeout=10.0)


SCENARIOS: Final[Mapping[Scenario, Result]] = {
    approve: Result("APPROVED", "COMMITTED", ("0.00", "0.00", "60.00", "0.00", "40.00"), 1),
    reject: Result("REJECTED", "RELEASED", ("0.00", "0.00", "0.00", "0.00", "100.00"), 1),
    request_changes: Result("APPROVED", "COMMITTED", ("0.00", "0.00", "70.00", "0.00", "30.00"), 2),
    exceed_budget: Result("", "", ("0.00", "0.00", "0.00", "0.00", "100.00")),
    overspend: Result("APPROVED", "COMMITTED", ("0.00", "0.00", "150.00", "0.00", "-50.00"), 1),
    increase: Result("APPROVED", "RAISED", ("0.00", "0.00", "0.00", "0.00", "125.00"), 1),
    increase_closed_budget: Result("APPROVED", "FAILED", ("0.00", "0.00", "0.00", "0.00", "100.00"), 1),
    abandon: Result("PENDING", "HELD", ("0.00", "60.00", "0.00", "0.00", "40.00")),
    abandon_exceeding_budget: Result("", "", ("0.00", "0.00", "0.00", "0.00", "100.00")),
}
"""Scenarios with their results on a budget of 100.00."""

CRASH_POINTS_OF: Final[Mapping[Scenario, Mapping[str, Sequence[str]]]] = {
    approve: {
        APPROVALS: (
            "stored, not held", "held, not started", "started, not committed", "started, not returned",
            "submission published, not marked", "decided, not committed", "decided, not returned",
            "decided, not published", "decision published, not marked", "settlement written, not committed",
            "settlement stored, not acknowledged",
        ),
        BUDGETS: (
            "hold written, not committed", "held, not returned", "outcome received", "commit written, not committed",
            "commit done", "settled, not acknowledged", "settled, not published",
            "settlement published, not marked",
        ),
    },
    reject: {
        APPROVALS: ("decided, not committed", "decided, not returned", "decided, not published"),
        BUDGETS: (
            "outcome received", "release written, not committed", "release done", "settled, not acknowledged",
            "settled, not published",
        ),
    },
    request_changes: {
        APPROVALS: ("released, next round not stored", "next round stored, not held", "decision published, not marked"),
        BUDGETS: ("cancelled, not returned", "release written, not committed", "release done"),
    },
    exceed_budget: {
        APPROVALS: ("stored, not held", "rejected, not released", "released, not rolled back"),
        BUDGETS: ("cancellation written, not committed", "cancelled, not returned"),
    },
    overspend: {
        BUDGETS: ("hold written, not committed", "held, not returned", "commit written, not committed", "commit done"),
    },
    increase: {
        BUDGETS: ("increase written, not committed", "increase done", "settled, not acknowledged"),
    },
    increase_closed_budget: {
        BUDGETS: ("failure written, not committed", "failure done"),
    },
    abandon: {
        APPROVALS: ("stored, not held", "held, not started", "started, not committed"),
        BUDGETS: ("hold written, not committed", "held, not returned"),
    },
    abandon_exceeding_budget: {
        APPROVALS: ("rejected, not released", "released, not rolled back"),
        BUDGETS: ("cancellation written, not committed", "cancelled, not returned"),
    },
}  # fmt: skip
"""The crash points that each scenario passes, by service, in order."""

_WITH_EVENTS: Final = re.compile("published|received|acknowledged")
"""Crash points at which an event is published or consumed."""


@dataclass(frozen=True, slots=True)
class Case:
    """A scenario with a crash of one process at a crash point."""

    scenario: Scenario
    service: str
    point: str
    victim: str

    def __str__(self) -> str:
        return f"{self.scenario.__name__}: {self.victim} is killed when {self.service} is at {self.point!r}"


def cases(*, every_victim: bool) -> Sequence[Case]:
    """Return each scenario at each of its crash points.

    With `every_victim`, once for each process; else for the process at the point, and NATS at points with events.
    """
    return [
        Case(scenario, service, point, victim)
        for scenario, points_of in CRASH_POINTS_OF.items()
        for service, points in points_of.items()
        for point in points
        for victim in (APPROVALS, BUDGETS, NATS)
        if every_victim or victim == service or (victim == NATS and scenario is approve and _WITH_EVENTS.search(point))
    ]


class RestartingProcesses:
    """The two services and NATS, restarted whenever they are killed."""

    def __init__(self, folder: Path, nats: Running[Nats], replicas: Mapping[str, Replica]) -> None:
        self.folder, self.nats, self.replicas = folder, nats, replicas
        self.crashes = Counter[str]()
        self._pids: dict[str, int] = {}
        self.restarting: list[asyncio.Task[None]] = []

    def arm(self, case: Case) -> Path:
        """Arm the crash point of a case; return the file that is deleted by the crash."""
        armed = self.folder / file_of(case.service, case.point)
        armed.write_text(case.victim)
        return armed

    async def all_running(self) -> bool:
        """True if all processes run and their ids are written for the crash points."""
        for task in self.restarting:
            if task.done():
                task.result()  # raises the error of a failed restart
        running = all(replica.pid == self._pids[name] for name, replica in self.replicas.items())
        return running and bool(die_with_parent.command_line(self._pids[NATS]))

    def _write_pid(self, name: str, pid: int) -> None:
        self._pids[name] = pid
        draft = self.folder / f"{name}.draft"
        draft.write_text(str(pid))
        draft.rename(self.folder / f"{name}.pid")

    async def start(self) -> None:
        """Start the services."""
        self._write_pid(NATS, self.nats.pid)
        await asyncio.gather(*(self._start(name) for name in self.replicas))

    async def _start(self, name: str) -> None:
        await self.replicas[name].start()
        self._write_pid(name, self.replicas[name].pid)

    async def restart(self, name: str) -> None:
        """Start a service again whenever it has ended, until cancelled."""
        while True:
            if not self.replicas[name].pid:
                self.crashes[name] += 1
                await self._start(name)
            await asyncio.sleep(0.02)

    async def restart_nats(self) -> None:
        """Start NATS again whenever it has ended, until cancelled."""
        while True:
            if not die_with_parent.command_line(self._pids[NATS]):
                self.crashes[NATS] += 1
                await asyncio.to_thread(self._start_nats)
            await asyncio.sleep(0.02)

    def _start_nats(self) -> None:
        self.nats.kill()
        self.nats.start()
        self._write_pid(NATS, self.nats.pid)


@contextlib.asynccontextmanager
async def restarting_processes(
    database: Copy, keys: Keys, entities: str, folder: Path
) -> AsyncIterator[RestartingProcesses]:
    """Run approvals and budgets as processes that restart, with a NATS of their own."""
    faults = folder / "faults"
    faults.mkdir()
    with servers.nats(folder / "nats") as nats:
        addresses = {"entities": entities}
        replicas = {}
        for name in (BUDGETS, APPROVALS):
            variables = environment(name, database, nats.url, keys) | {FOLDER: str(faults)}
            variables["BILLING_ADDRESSES"] = json.dumps(addresses)
            replicas[name] = Replica("tests.chaos.faults", variables, folder, f"services.{name}.main")
            addresses[name] = replicas[name].address
        processes = RestartingProcesses(faults, nats, replicas)
        await processes.start()
        processes.restarting = [asyncio.create_task(processes.restart(name)) for name in replicas]
        processes.restarting.append(asyncio.create_task(processes.restart_nats()))
        try:
            yield processes
        finally:
            for task in processes.restarting:
                task.cancel()
            await asyncio.gather(*processes.restarting, return_exceptions=True)
            await asyncio.gather(*(replica.end(signal.SIGTERM) for replica in replicas.values()))


class ScenarioRunner:
    """Runs cases one after the other, and checks the results of all of them at the end."""

    def __init__(self, processes: RestartingProcesses, api: ApprovalsApi) -> None:
        self._processes, self._api = processes, api
        self._finished: list[tuple[Case, Budget]] = []

    async def run(self, case: Case) -> None:
        """Run a scenario; fails if its crash does not happen."""
        policy = Budget.REQUIRE_APPROVAL if case.scenario is overspend else Budget.BLOCK
        budget = await self._api.budgets.open("100.00", overspend_policy=policy)
        await eventually(self._processes.all_running, within_s=RETRY_FOR_S)
        await self._wait_for_connection(budget)
        armed = self._processes.arm(case)
        await case.scenario(self._api, budget)
        self._finished.append((case, budget))

        async def crashed() -> bool:
            return not armed.exists()

        await eventually(crashed, within_s=CRASH_WITHIN_S, about=str(case))

    async def _wait_for_connection(self, budget: Budget) -> None:
        """Wait until approvals reaches budgets again: the `abandon…` scenarios call only once."""
        await self._api.submit(amount="1.00", budget_id=budget.id, validate_only=True)

    async def _result(self, budget: Budget) -> Result:
        listing = pb.ListApprovalsRequest(budget_id=budget.id)
        approvals = (await self._api.admin.call(self._api.stubs.approvals.ListApprovals, listing)).approvals
        amounts = await self._api.amounts(budget)
        if not approvals:
            return Result("", "", amounts)
        (approval,) = approvals
        decisions = [action for action in await self._api.history(approval) if action.actor == "carla"]
        state, funds = Approval.State.Name(approval.state), Approval.Funds.Name(approval.funds)
        return Result(state, funds, amounts, len(decisions))

    async def _unexpected_results(self) -> Sequence[str]:
        results = [(case, await self._result(budget)) for case, budget in self._finished]
        return [
            f"{case}: {result}, expected {SCENARIOS[case.scenario]}"
            for case, result in results
            if result != SCENARIOS[case.scenario]
        ]

    async def check(self) -> None:
        """Wait until all cases have their expected result and verify the budgets. Raises AssertionError."""
        deadline = time.monotonic() + RECOVER_WITHIN_S
        while unexpected := await self._unexpected_results():
            assert time.monotonic() < deadline, "\n".join(unexpected)
            await asyncio.sleep(0.5)
        await self._api.budgets.verify(*(budget for _, budget in self._finished))


@contextlib.asynccontextmanager
async def scenario_runner(
    processes: RestartingProcesses, keys: Keys, entities: Entities
) -> AsyncIterator[ScenarioRunner]:
    """A new tenant with retrying callers and a default rule: carla decides on all requests."""
    tenant = uuid4()

    def caller(role: str = "finance", subject: str = "alice") -> Caller:
        return RetryingCaller(tenant, subject, keys.token(tenant, role=role, subject=subject, exp=_in_an_hour()))

    async with (
        aio.insecure_channel(processes.replicas[APPROVALS].address, options=CHANNEL) as approvals,
        aio.insecure_channel(processes.replicas[BUDGETS].address, options=CHANNEL) as budgets,
    ):
        budget_api = BudgetsApi(caller(), Budgets(budgets), entities)
        api = ApprovalsApi(caller, Approvals(approvals), budget_api)
        budget_api.entity_id = await budget_api.company()
        await api.create_rule(step("Controlling", "carla"), is_default=True)
        yield ScenarioRunner(processes, api)


def _in_an_hour() -> int:
    return int(time.time()) + 3600
