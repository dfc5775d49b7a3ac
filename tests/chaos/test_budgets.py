"""A short run of `make chaos-budgets`: two replicas, one of which is killed under load."""

from pathlib import Path

from tests.chaos.budgets import play
from tests.chaos.stage import Stage, replicas
from tests.harness.databases import Copy
from tests.harness.services import Entities, Served
from tests.harness.tokens import Keys


async def test_nothing_is_lost_or_done_twice_when_a_replica_is_killed(
    database: Copy, nats_url: str, keys: Keys, entities_served: Served[Entities], tmp_path: Path
) -> None:
    address = entities_served.address
    async with replicas(database, nats_url, keys, address, tmp_path) as started:
        stage = Stage(database=database, keys=keys, entities=address, replicas=started)
        outcome = await play(
            stage, operations=2_000, seed=1, faults=[("budgets-0", 0.3)], callers=32, expiring=False
        )  # fmt: skip
    assert outcome.found == []
    assert outcome.faults == ["budgets-0 at 30%"]
    assert outcome.operations >= 2_000
    assert outcome.retries, "nobody noticed that a replica was killed"
    assert outcome.refused["BUDGET_EXCEEDED"] > 0
    assert outcome.answered.keys() == {
        "Charge", "CreateHold", "CommitHold", "CaptureHold", "ReleaseHold", "RefundCharge"
    }  # fmt: skip
