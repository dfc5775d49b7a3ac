"""Invoices stay consistent while callers compete for them and a replica is killed."""

from pathlib import Path
from typing import TypeAlias

import asyncpg

from tests.chaos.invoices import InvoiceLoad, check
from tests.chaos.stage import entities_replicas
from tests.harness.callers import Caller
from tests.harness.databases import Copy
from tests.harness.tokens import Keys

Admin: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


async def test_no_number_is_lost_and_nothing_is_billed_twice_when_a_replica_is_killed(
    database: Copy, nats_url: str, keys: Keys, finance: Caller, admin: Admin, tmp_path: Path
) -> None:
    async with entities_replicas(database, nats_url, keys, tmp_path) as started:
        load = InvoiceLoad(replicas=started, caller=finance, seed=1, operations=400)
        await load.run(callers=20)
    assert await check(admin, load) == []
    assert load.retries, "no caller noticed the killed replica"
    assert load.accepted.keys() == {"allocate", "create", "refresh", "issue", "void"}
