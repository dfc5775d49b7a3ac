"""A short run of `make chaos-budgets`: two replicas, one of which is killed under load."""

from pathlib import Path

from tests.chaos.budgets import run_scenario
from tests.chaos.stage import ChaosStack, replicas
from tests.harness.databases import Copy
from tests.harness.services import Entities, Served
from tests.harness.tokens import Keys


async def test_no_request_is_lost_or_doubled_when_a_replica_is_killed(
    database: Copy, nats_url: str, keys: Keys, entities_served: Served[Entities], tmp_path: Path
) -> None:
    address = entities_served.address
    async with replicas(database, nats_url, keys, address, tmp_path) as started:
        stack = ChaosStack(database=database, keys=keys, entities=address, replicas=started)
        outcome = await run_scenario(
            stack, operations=2_000, seed=1, faults=[("budgets-0", 0.3)], callers=32, expiring=False
        )  # fmt: skip
    assert outcome.findings == []
    assert outcome.faults == ["budgets-0 at 30%"]
    assert outcome.operations >= 2_000
    assert outcome.retries, "no caller noticed the killed replica"
    assert outcome.rejected["BUDGET_EXCEEDED"] > 0
    assert outcome.accepted.keys() == {
        "Charge", "CreateHold", "CommitHold", "CaptureHold", "ReleaseHold", "RefundCharge"
    }  # fmt: skip
