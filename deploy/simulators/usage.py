"""The usage tracking system: says what was used, so many records at such a rate.

`python -m deploy.simulators.usage [--count 100] [--rate 50] [--duplicates 5] [--bad 2] [--tenant acme]`; `make usage`
does that on the local stack. Duplicates are the same record in an event of its own, bad ones can't be allocated: their
entity is not there, or their amount is zero. Which records these are follows from `--seed`.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

import nats
from billing.type.v1.money_pb2 import Money
from nats.js import JetStreamContext
from outside.usage.v1.usage_pb2 import UsageRecorded

from deploy.simulators.telling import tell

SOURCE: Final = "/platform/usage"
_UNDER_WAY_MAX: Final = 256
"""Publishing waits for the disk of NATS, so many are under way at once."""
_PRICES: Final = {
    "compute": ("vCPU hours", Decimal("0.045")),
    "storage": ("GB months", Decimal("0.023")),
    "traffic": ("GB", Decimal("0.09")),
}
"""By category: what it is counted in, and what one costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be said."""

    count: int
    rate: float
    """Records a second; 0 is as fast as it goes."""
    duplicates: float = 0.0
    """How many of a hundred are said a second time, besides."""
    bad: float = 0.0
    """How many of a hundred can't be allocated."""
    entity_code: str = "ACME"
    department_codes: Sequence[str] = ("ENG", "SALES", "FIN")
    """One of them for each record; none: the entity bears the cost as a whole."""
    currency: str = "USD"
    seed: int = 1
    run: str = ""
    """Begins the ids of the records: the same run again says the same records."""


@dataclass(frozen=True, slots=True)
class Said:
    """How many events there were, and which of them bring nothing new or can't be allocated."""

    events: int
    duplicates: int
    bad: int
    seconds: float


def records(plan: Plan) -> Iterator[tuple[UsageRecorded, bool, bool]]:
    """Each record, whether it can't be allocated, and whether it is to be said twice."""
    chance = random.Random(plan.seed)  # noqa: S311 - which records are bad is no secret
    for number in range(plan.count):
        category = chance.choice(sorted(_PRICES))
        unit, price = _PRICES[category]
        quantity = Decimal(chance.randint(100, 100_000))
        record = UsageRecorded(
            record_id=f"{plan.run}{plan.seed}-{number}",
            entity_code=plan.entity_code,
            department_code=chance.choice(plan.department_codes) if plan.department_codes else "",
            category=category,
            quantity=str(quantity),
            unit=unit,
            amount=Money(currency_code=plan.currency, amount=f"{quantity * price:.2f}"),
            description=f"{category} {number}",
        )
        bad, twice = (chance.uniform(0, 100) < share for share in (plan.bad, plan.duplicates))
        if bad and chance.random() < 0.5:  # noqa: PLR2004 - half of them each
            record.entity_code = "NOBODY"
        elif bad:
            record.amount.amount = "0.00"
        yield record, bad, twice and not bad


async def say(jetstream: JetStreamContext, tenant_id: UUID, plan: Plan) -> Said:
    """Say all of it; returns when all is kept."""
    started = time.monotonic()
    free, events, duplicates, spoilt = asyncio.Semaphore(_UNDER_WAY_MAX), 0, 0, 0

    async def one(record: UsageRecorded) -> None:
        try:
            await tell(jetstream, record, tenant_id, SOURCE)
        finally:
            free.release()

    async with asyncio.TaskGroup() as saying:
        for record, bad, twice in records(plan):
            record.usage_time.FromDatetime(datetime.now(UTC))
            duplicates, spoilt = duplicates + twice, spoilt + bad
            for _ in range(1 + twice):
                if plan.rate:
                    await asyncio.sleep(started + events / plan.rate - time.monotonic())
                await free.acquire()
                saying.create_task(one(record))
                events += 1
    return Said(events, duplicates, spoilt, time.monotonic() - started)


async def _run(url: str, tenant_id: UUID, plan: Plan) -> Said:
    client = await nats.connect(url.split(","), name="simulator:usage")
    try:
        return await say(client.jetstream(), tenant_id, plan)
    finally:
        await client.close()


def main() -> None:
    """The command line; variables of make are taken too."""
    from deploy.local import keys
    from deploy.local.processes import layout

    parser = argparse.ArgumentParser(prog="python -m deploy.simulators.usage", description=__doc__)
    for name, usual, meaning in (
        ("count", "100", "how many records"),
        ("rate", "50", "how many a second; 0 is as fast as it goes"),
        ("duplicates", "0", "how many of a hundred are said twice"),
        ("bad", "0", "how many of a hundred can't be allocated"),
        ("seed", "1", "what the records are"),
        ("tenant", "acme", "for whom: short name or id"),
        ("entity", "ACME", "code of the entity that bears the cost"),
        ("departments", "ENG,SALES,FIN", "codes of its departments"),
        ("run", f"{datetime.now(UTC):%Y%m%d%H%M%S}-", "begins the ids of the records"),
    ):
        parser.add_argument(f"--{name}", default=os.environ.get(name.upper()) or usual, help=meaning)
    given = parser.parse_args()
    plan = Plan(
        count=int(given.count),
        rate=float(given.rate),
        duplicates=float(given.duplicates),
        bad=float(given.bad),
        entity_code=given.entity,
        department_codes=[code for code in given.departments.split(",") if code],
        seed=int(given.seed),
        run=given.run,
    )
    said = asyncio.run(_run(layout(running=True).nats_url, keys.tenant_id(given.tenant), plan))
    print(
        f"usage: {said.events} events in {said.seconds:.1f} s, {said.duplicates} of them duplicates,"
        f" {said.bad} that can't be allocated"
    )


if __name__ == "__main__":
    main()
