"""`make chaos-budgets`: budgets under faults. Prints a summary and the findings; exit code 1 if there are any.

64 callers charge, hold, capture, release and refund in a tree of budgets of all policies, while replicas, PostgreSQL
and NATS are killed and restarted. Every request is retried with its key until it gets a definite reply. Then each
reply, each rejection and each number is checked against the ledger, and each key must return the same bytes again.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import uvloop
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.budget_service_pb2_grpc import BudgetServiceStub
from billing.budgets.v1.ledger_service_pb2_grpc import LedgerServiceStub
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.entity_service_pb2 import CreateEntityRequest
from billing.entities.v1.entity_service_pb2_grpc import EntityServiceStub
from grpc import aio

from kit import ids
from tests.chaos.checker import Checker, Finding
from tests.chaos.load import Load, money
from tests.chaos.record import SentRequest, read_ledger
from tests.chaos.stage import ChaosStack, Replica, restart, running_stack

CALLERS: Final = 64
_BRANCHES: Final = ("BLOCK", "ALLOW_WITHIN_TOLERANCE", "WARN", "BLOCK", "REQUIRE_APPROVAL")
_LEAVES: Final = ("BLOCK", "ALLOW_WITHIN_TOLERANCE", "WARN", "BLOCK", "BLOCK")
_SETTLE_TIMEOUT_S: Final = 120.0
_FINDINGS_SHOWN: Final = 20

Fault = tuple[str, float]
"""The process to restart (`budgets-0`, `budgets-1`, `postgres`, `nats`), and the share of operations before it."""
FAULTS: Final[Sequence[Fault]] = (
    ("budgets-0", 0.08), ("budgets-1", 0.2), ("nats", 0.3), ("budgets-0", 0.4), ("postgres", 0.5),
    ("budgets-1", 0.62), ("budgets-0", 0.75), ("budgets-1", 0.88),
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Counts and findings of a run."""

    operations: int
    requests: int
    by_type: Counter[str]
    accepted: Counter[str]
    rejected: Counter[str]
    retries: Counter[str]
    faults: list[str]
    repeated: int
    seconds: float
    entries: int
    holds: int
    alerts: int
    findings: list[Finding] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        """The printed summary."""
        kinds = Counter(finding.kind for finding in self.findings)
        return {
            "operations": self.operations,
            "by_type": dict(self.by_type),
            "requests": self.requests,
            "accepted": dict(self.accepted),
            "rejected": dict(self.rejected),
            "sent_again": dict(self.retries),
            "faults": self.faults,
            "ledger": {"entries": self.entries, "holds": self.holds, "alerts": self.alerts},
            "repeated_at_the_end": self.repeated,
            "violations": kinds["WRONG"],
            "lost": kinds["LOST"],
            "doubled": kinds["DOUBLED"],
            "seconds": round(self.seconds, 1),
            "operations_per_s": round(self.operations / self.seconds),
        }


async def run_scenario(
    stack: ChaosStack,
    *,
    operations: int,
    seed: int,
    faults: Sequence[Fault],
    callers: int = CALLERS,
    expiring: bool = True,
) -> Outcome:
    """Run the load with its faults, repeat all requests, and check the result."""
    initial_amounts = await _open_tree(stack, operations)
    async with Load(
        stack=stack, budgets=list(initial_amounts), seed=seed, operations=operations, expiring=expiring
    ) as load:  # fmt: skip
        started = time.monotonic()
        fault_task = asyncio.create_task(_inject_faults(stack, load, faults))
        await load.run(callers)
        seconds = time.monotonic() - started
        done = await fault_task
        await _wait_until_settled(stack)
        repeated = await load.repeat_all(callers)
    async with _admin(stack) as admin:
        ledger = await read_ledger(admin, stack.tenant, initial_amounts)
    findings = Checker(ledger, load.sent).check()
    findings += [Finding("WRONG", f"a repeated request got another reply: {text}") for text in load.differing]
    findings += [Finding("WRONG", f"server error: {code}") for code in load.retries if code.startswith(_SERVER_ERRORS)]
    findings += await _verify(stack, initial_amounts)
    accepted, rejected = _counted(load.sent)
    return Outcome(
        operations=sum(load.kinds.values()), requests=len(load.sent), by_type=load.kinds, accepted=accepted,
        rejected=rejected, retries=load.retries, faults=done, repeated=repeated, seconds=seconds,
        entries=len(ledger.entries), holds=len(ledger.holds), alerts=len(ledger.alerts), findings=findings,
    )  # fmt: skip


_SERVER_ERRORS: Final = ("INTERNAL", "UNKNOWN")


def _counted(sent: Sequence[SentRequest]) -> tuple[Counter[str], Counter[str]]:
    accepted = Counter(one.method for one in sent if one.result)
    rejected = Counter(rejection.reason for one in sent for rejection in one.rejections)
    return accepted, rejected


async def _open_tree(stack: ChaosStack, operations: int) -> dict[UUID, int]:
    """Create a budget, five below it and five below each of these; the run exhausts them about halfway."""
    root = operations * 350
    async with _stub(stack.replicas[0].address) as channel, _stub(stack.entities) as entities:
        company = await EntityServiceStub(entities).CreateEntity(
            CreateEntityRequest(
                code="CHAOS", legal_name="Chaos SE", entity_type=Entity.HOLDING, currency_code="EUR", country_code="DE"
            ),
            metadata=stack.metadata, timeout=20,
        )  # fmt: skip
        initial_amounts: dict[UUID, int] = {}

        async def create_budget(parent: str, name: str, amount: int, policy: str) -> str:
            budget = await BudgetServiceStub(channel).CreateBudget(
                pb.CreateBudgetRequest(
                    entity_id=company.id, parent_id=parent, name=name, period_type=Budget.ANNUAL,
                    period_start_date=f"{datetime.now(UTC).year}-01-01", amount=money(amount),
                    overspend_policy=Budget.OverspendPolicy.Value(policy),
                    tolerance_bp=333 if policy == "ALLOW_WITHIN_TOLERANCE" else 0,
                ),
                metadata=stack.metadata, timeout=20,
            )  # fmt: skip
            initial_amounts[ids.BUDGET.parse(budget.id)] = amount
            return budget.id

        top = await create_budget("", "group", root, "BLOCK")
        for number, policy in enumerate(_BRANCHES):
            branch = await create_budget(top, f"branch {number}", root // 4, policy)
            for leaf, leaf_policy in enumerate(_LEAVES):
                await create_budget(branch, f"leaf {number}.{leaf}", root // 16, leaf_policy)
    return initial_amounts


def _stub(address: str) -> aio.Channel:
    return aio.insecure_channel(address)


@asynccontextmanager
async def _admin(stack: ChaosStack) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    connection = await asyncpg.connect(stack.database.admin_url)
    try:
        yield connection
    finally:
        await connection.close()


async def _inject_faults(stack: ChaosStack, load: Load, faults: Sequence[Fault]) -> list[str]:
    """Inject each fault after its share of operations; return what was done."""
    done = []
    for name, share in faults:
        await load.wait_for(max(1, int(share * load.operations)))
        if name == "postgres" and stack.postgres:
            await restart(stack.postgres, signal.SIGQUIT)
        elif name == "nats" and stack.nats:
            await restart(stack.nats, signal.SIGKILL)
        else:
            replica: Replica = stack.replicas[int(name.removeprefix("budgets-"))]
            await replica.end(signal.SIGKILL)
            await replica.start()
        done.append(f"{name} at {share:.0%}")
    return done


async def _wait_until_settled(stack: ChaosStack) -> None:
    """Wait until every event is published and every hold with an expiry has expired."""
    waiting = (
        "select (select count(*) from budgets.outbox where tenant_id = $1 and publish_time is null)"
        " + (select count(*) from budgets.budget_holds"
        " where tenant_id = $1 and state = 'HELD' and expire_time is not null)"
    )
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    async with _admin(stack) as admin:
        while await admin.fetchval(waiting, stack.tenant) and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.1)


async def _verify(stack: ChaosStack, budgets: dict[UUID, int]) -> list[Finding]:
    """Call VerifyBudget for each budget: its counters must equal its ledger."""
    findings = []
    async with _stub(stack.replicas[0].address) as channel:
        for budget in budgets:
            request = ledger_pb.VerifyBudgetRequest(id=ids.BUDGET.format(budget))
            result = await LedgerServiceStub(channel).VerifyBudget(request, metadata=stack.metadata, timeout=30)
            if not result.verified:
                findings.append(Finding("WRONG", f"VerifyBudget: {result}"))
    return findings


async def _main(operations: int, seed: int) -> int:
    async with running_stack() as stack:
        outcome = await run_scenario(stack, operations=operations, seed=seed, faults=FAULTS)
    sys.stdout.write(json.dumps(outcome.summary, indent=2) + "\n")
    for finding in outcome.findings[:_FINDINGS_SHOWN]:
        sys.stdout.write(f"{finding.kind}: {finding.text[:300]}\n")
    return 1 if outcome.findings else 0


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sys.exit(uvloop.run(_main(arguments.operations, arguments.seed)))


if __name__ == "__main__":
    main()
