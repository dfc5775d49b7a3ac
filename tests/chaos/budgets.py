"""`make chaos-budgets`: budgets under faults. Prints what was done and what was found; exit code 1 if anything was.

64 callers charge, hold, capture, release and refund over a tree of budgets of all policies, while replicas, PostgreSQL
and NATS are killed and come back. Every request is repeated with its key until it has an answer. Afterwards each
answer, each refusal and each number is checked against the ledger, and each key must give the same bytes again.
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
from tests.chaos.record import Asked, read_ledger
from tests.chaos.stage import Replica, Stage, restart, whole

CALLERS: Final = 64
_BRANCHES: Final = ("BLOCK", "ALLOW_WITHIN_TOLERANCE", "WARN", "BLOCK", "REQUIRE_APPROVAL")
_LEAVES: Final = ("BLOCK", "ALLOW_WITHIN_TOLERANCE", "WARN", "BLOCK", "BLOCK")
_SETTLED_WITHIN_S: Final = 120.0
_SHOWN: Final = 20

Fault = tuple[str, float]
"""What is done (`budgets-0`, `budgets-1`, `postgres`, `nats`), and after which share of the operations."""
FAULTS: Final[Sequence[Fault]] = (
    ("budgets-0", 0.08), ("budgets-1", 0.2), ("nats", 0.3), ("budgets-0", 0.4), ("postgres", 0.5),
    ("budgets-1", 0.62), ("budgets-0", 0.75), ("budgets-1", 0.88),
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run was and found."""

    operations: int
    requests: int
    by_type: Counter[str]
    answered: Counter[str]
    refused: Counter[str]
    retries: Counter[str]
    faults: list[str]
    repeated: int
    seconds: float
    entries: int
    holds: int
    alerts: int
    found: list[Finding] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        """As it is printed."""
        kinds = Counter(finding.kind for finding in self.found)
        return {
            "operations": self.operations,
            "by_type": dict(self.by_type),
            "requests": self.requests,
            "answered": dict(self.answered),
            "refused": dict(self.refused),
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


async def play(
    stage: Stage, *, operations: int, seed: int, faults: Sequence[Fault], callers: int = CALLERS, expiring: bool = True
) -> Outcome:
    """One run: the load with its faults, everything once more, and the check."""
    opened = await _open_tree(stage, operations)
    async with Load(
        stage=stage, budgets=list(opened), seed=seed, operations=operations, expiring=expiring
    ) as load:  # fmt: skip
        started = time.monotonic()
        disturbing = asyncio.create_task(_disturb(stage, load, faults))
        await load.run(callers)
        seconds = time.monotonic() - started
        done = await disturbing
        await _settled(stage)
        repeated = await load.repeat_all(callers)
    async with _admin(stage) as admin:
        ledger = await read_ledger(admin, stage.tenant, opened)
    found = Checker(ledger, load.asked).check()
    found += [Finding("WRONG", f"answered in another way: {what}") for what in load.differing]
    found += [Finding("WRONG", f"a fault of ours: {code}") for code in load.retries if code.startswith(_OUR_FAULTS)]
    found += await _verify(stage, opened)
    answered, refused = _counted(load.asked)
    return Outcome(
        operations=sum(load.kinds.values()), requests=len(load.asked), by_type=load.kinds, answered=answered,
        refused=refused, retries=load.retries, faults=done, repeated=repeated, seconds=seconds,
        entries=len(ledger.entries), holds=len(ledger.holds), alerts=len(ledger.alerts), found=found,
    )  # fmt: skip


_OUR_FAULTS: Final = ("INTERNAL", "UNKNOWN")


def _counted(asked: Sequence[Asked]) -> tuple[Counter[str], Counter[str]]:
    answered = Counter(one.method for one in asked if one.told)
    refused = Counter(denied.reason for one in asked for denied in one.denials)
    return answered, refused


async def _open_tree(stage: Stage, operations: int) -> dict[UUID, int]:
    """A budget, five below it and five below each of those; the run fills them at about half of its time."""
    root = operations * 350
    async with _stub(stage.replicas[0].address) as channel, _stub(stage.entities) as entities:
        company = await EntityServiceStub(entities).CreateEntity(
            CreateEntityRequest(
                code="CHAOS", legal_name="Chaos SE", entity_type=Entity.HOLDING, currency_code="EUR", country_code="DE"
            ),
            metadata=stage.metadata, timeout=20,
        )  # fmt: skip
        opened: dict[UUID, int] = {}

        async def open_below(parent: str, name: str, amount: int, policy: str) -> str:
            budget = await BudgetServiceStub(channel).CreateBudget(
                pb.CreateBudgetRequest(
                    entity_id=company.id, parent_id=parent, name=name, period_type=Budget.ANNUAL,
                    period_start_date=f"{datetime.now(UTC).year}-01-01", amount=money(amount),
                    overspend_policy=Budget.OverspendPolicy.Value(policy),
                    tolerance_bp=333 if policy == "ALLOW_WITHIN_TOLERANCE" else 0,
                ),
                metadata=stage.metadata, timeout=20,
            )  # fmt: skip
            opened[ids.BUDGET.parse(budget.id)] = amount
            return budget.id

        top = await open_below("", "group", root, "BLOCK")
        for number, policy in enumerate(_BRANCHES):
            branch = await open_below(top, f"branch {number}", root // 4, policy)
            for leaf, leaf_policy in enumerate(_LEAVES):
                await open_below(branch, f"leaf {number}.{leaf}", root // 16, leaf_policy)
    return opened


def _stub(address: str) -> aio.Channel:
    return aio.insecure_channel(address)


@asynccontextmanager
async def _admin(stage: Stage) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    connection = await asyncpg.connect(stage.database.admin_url)
    try:
        yield connection
    finally:
        await connection.close()


async def _disturb(stage: Stage, load: Load, faults: Sequence[Fault]) -> list[str]:
    """Do each fault when its time has come; gives what was done."""
    done = []
    for name, share in faults:
        await load.reached(max(1, int(share * load.operations)))
        if name == "postgres" and stage.postgres:
            await restart(stage.postgres, signal.SIGQUIT)
        elif name == "nats" and stage.nats:
            await restart(stage.nats, signal.SIGKILL)
        else:
            replica: Replica = stage.replicas[int(name.removeprefix("budgets-"))]
            await replica.end(signal.SIGKILL)
            await replica.start()
        done.append(f"{name} at {share:.0%}")
    return done


async def _settled(stage: Stage) -> None:
    """Wait until every event is published and every hold that is to expire has expired."""
    waiting = (
        "select (select count(*) from budgets.outbox where tenant_id = $1 and publish_time is null)"
        " + (select count(*) from budgets.budget_holds"
        " where tenant_id = $1 and state = 'HELD' and expire_time is not null)"
    )
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    async with _admin(stage) as admin:
        while await admin.fetchval(waiting, stage.tenant) and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.1)


async def _verify(stage: Stage, budgets: dict[UUID, int]) -> list[Finding]:
    """Ask the service itself whether its counters are what its ledger says."""
    found = []
    async with _stub(stage.replicas[0].address) as channel:
        for budget in budgets:
            request = ledger_pb.VerifyBudgetRequest(id=ids.BUDGET.format(budget))
            told = await LedgerServiceStub(channel).VerifyBudget(request, metadata=stage.metadata, timeout=30)
            if not told.verified:
                found.append(Finding("WRONG", f"VerifyBudget: {told}"))
    return found


async def _main(operations: int, seed: int) -> int:
    async with whole() as stage:
        outcome = await play(stage, operations=operations, seed=seed, faults=FAULTS)
    sys.stdout.write(json.dumps(outcome.summary, indent=2) + "\n")
    for finding in outcome.found[:_SHOWN]:
        sys.stdout.write(f"{finding.kind}: {finding.what[:300]}\n")
    return 1 if outcome.found else 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.exit(uvloop.run(_main(given.operations, given.seed)))


if __name__ == "__main__":
    main()
