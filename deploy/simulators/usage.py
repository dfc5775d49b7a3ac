"""Simulator of the usage tracking system: publishes usage records at a chosen rate.

`python -m deploy.simulators.usage [--count 100] [--rate 50] [--duplicates 5] [--bad 2] [--tenant acme]`; `make usage`
uses the local stack. A duplicate is the same record in another event. Bad records can't be allocated: their entity does
not exist, or their amount is zero. `--seed` selects the records.
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

from deploy import options
from deploy.nats_users import system_user
from deploy.simulators.publishing import publish
from eventing.subjects import inbox_prefix

SOURCE: Final = "/platform/usage"
_IN_FLIGHT_MAX: Final = 256
"""Publishing waits for the disk of NATS, so many records are in flight at once."""
_PRICES: Final = {
    "compute": ("vCPU hours", Decimal("0.045")),
    "storage": ("GB months", Decimal("0.023")),
    "traffic": ("GB", Decimal("0.09")),
}
"""Unit and unit price by category."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The records to publish."""

    count: int
    rate: float
    """Records per second; 0 for no limit."""
    duplicates: float = 0.0
    """Percentage of records that are published twice."""
    bad: float = 0.0
    """Percentage of records that can't be allocated."""
    entity_code: str = "ACME"
    department_codes: Sequence[str] = ("ENG", "SALES", "FIN")
    """Each record is for one of them; if empty, for the entity without a department."""
    currency: str = "USD"
    seed: int = 1
    run: str = ""
    """Prefix of the record ids: the same run publishes the same records again."""


@dataclass(frozen=True, slots=True)
class PublishResult:
    """Number of published events, and of those among them that are duplicates or can't be allocated."""

    events: int
    duplicates: int
    bad: int
    seconds: float


def records(plan: Plan) -> Iterator[tuple[UsageRecorded, bool, bool]]:
    """Yield each record, whether it is bad, and whether it is published twice."""
    chance = random.Random(plan.seed)  # noqa: S311 - no secret
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


async def publish_all(jetstream: JetStreamContext, tenant_id: UUID, plan: Plan) -> PublishResult:
    """Publish all records; returns when NATS has stored them."""
    started = time.monotonic()
    slots, events, duplicates, bad_records = asyncio.Semaphore(_IN_FLIGHT_MAX), 0, 0, 0

    async def one(record: UsageRecorded) -> None:
        try:
            await publish(jetstream, record, tenant_id, SOURCE)
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        for record, bad, twice in records(plan):
            record.usage_time.FromDatetime(datetime.now(UTC))
            duplicates, bad_records = duplicates + twice, bad_records + bad
            for _ in range(1 + twice):
                if plan.rate:
                    await asyncio.sleep(started + events / plan.rate - time.monotonic())
                await slots.acquire()
                group.create_task(one(record))
                events += 1
    return PublishResult(events, duplicates, bad_records, time.monotonic() - started)


async def _run(url: str, tenant_id: UUID, plan: Plan) -> PublishResult:
    client = await nats.connect(url.split(","), name="simulator:usage", inbox_prefix=inbox_prefix(system_user("usage")))
    try:
        return await publish_all(client.jetstream(), tenant_id, plan)
    finally:
        await client.close()


def main() -> None:
    """Run the command line; options can also be set by the environment."""
    from deploy.local import keys
    from deploy.local.supervision import NotRunning, running_layout

    parser = argparse.ArgumentParser(prog="python -m deploy.simulators.usage", description=__doc__)
    for name, default, meaning in (
        ("count", "100", "number of records"),
        ("rate", "50", "records per second; 0 for no limit"),
        ("duplicates", "0", "percentage that is published twice"),
        ("bad", "0", "percentage that can't be allocated"),
        ("seed", "1", "selects the records"),
        ("tenant", "acme", "tenant: short name or id"),
        ("entity", "ACME", "code of the entity"),
        ("departments", "ENG,SALES,FIN", "codes of its departments"),
        ("run", f"{datetime.now(UTC):%Y%m%d%H%M%S}-", "prefix of the record ids"),
    ):
        parser.add_argument(f"--{name}", default=os.environ.get(name.upper()) or default, help=meaning)
    arguments = parser.parse_args()
    try:
        plan, layout = _plan(arguments), running_layout()
    except (options.InvalidOption, NotRunning) as failure:
        raise SystemExit(str(failure)) from None
    result = asyncio.run(_run(layout.nats_url_as(system_user("usage")), keys.tenant_id(arguments.tenant), plan))
    print(
        f"usage: {result.events} events in {result.seconds:.1f} s, {result.duplicates} of them duplicates,"
        f" {result.bad} that can't be allocated"
    )


def _plan(arguments: argparse.Namespace) -> Plan:
    """Parse the options. Raises InvalidOption."""
    return Plan(
        count=options.whole_number("COUNT", arguments.count),
        rate=options.decimal_number("RATE", arguments.rate),
        duplicates=options.decimal_number("DUPLICATES", arguments.duplicates),
        bad=options.decimal_number("BAD", arguments.bad),
        entity_code=arguments.entity,
        department_codes=[code for code in arguments.departments.split(",") if code],
        seed=options.whole_number("SEED", arguments.seed),
        run=arguments.run,
    )


if __name__ == "__main__":
    main()
