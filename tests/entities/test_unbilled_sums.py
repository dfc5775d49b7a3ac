"""Billed and unbilled sum to everything allocated and due, whatever callers do, also at the same time."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from random import Random
from typing import Final

import asyncpg
import grpc
import pytest
from billing.entities.v1.allocation_pb2 import Allocation
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice

from kit import ids
from kit.db import Database
from kit.origin import Origin
from tests.entities.allocation_api import AllocationApi, line
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.companies import copy_company
from tests.entities.contract_api import ContractApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi
from tests.entities.unbilled_sums import check_sums
from tests.harness.callers import Caller, Refusal
from tests.harness.services import Entities, Served

MONTHS: Final = [("2026-09-01", "2026-10-01"), ("2026-10-01", "2026-11-01"), ("2026-11-01", "2026-12-01")]
CURRENCIES: Final = ("EUR", "USD", "GBP", "JPY")
AS_OF: Final = date(2027, 3, 1)
COMPANIES: Final = 1_000
DIVISIONS: Final = 10
CALLERS: Final = 64
INVOICING_CALLERS: Final = 8
LOAD_S: Final = 8.0
EXPECTED: Final = {
    "CONFLICT", "INVOICE_PERIOD_TAKEN", "INVOICE_EMPTY", "INVOICE_STATE", "ALLOCATION_ALREADY_REVERSED",
    "CONCURRENCY_LIMITED", "OVERLOADED", "ETAG_MISMATCH",
}  # fmt: skip
"""Refusals that callers get in the way of each other."""


@pytest.fixture
def db(entities_served: Served[Entities]) -> Database:
    return entities_served.service.db


@pytest.fixture
async def holding(api: EntitiesApi, profiles: BillingProfileApi) -> Entity:
    await profiles.create("Shared Services")
    for start, _ in MONTHS:
        await api.set_rates(f"{start} USD/EUR 0.9123", f"{start} GBP/EUR 1.1717", f"{start} JPY/EUR 0.006213")
    return await api.create_entity("HOLD", tax_rate_bp=1900)


class Group:
    """Calls on a group of companies, chosen at random."""

    def __init__(self, random: Random, costs: AllocationApi, invoices: InvoiceApi) -> None:
        self.random = random
        self.costs = costs
        self.invoices = invoices
        self.roots: Sequence[Entity] = ()
        """The entities that get invoices."""
        self.departments: Sequence[str] = ()
        self.entity_ids: Sequence[str] = ()
        self.allocations: list[Allocation] = []
        self.documents: list[Invoice] = []
        self.done = Counter[str]()

    async def allocate(self) -> None:
        random, lines = self.random, []
        for _ in range(random.randrange(1, 6)):
            currency = random.choice(CURRENCIES)
            amount = random.randrange(1, 100_000)
            fields = {
                "allocation_date": date(2026, random.randrange(9, 12), random.randrange(1, 29)).isoformat(),
                "gl_code": random.choice(["6200", "6300"]),
            }
            company, supplier = random.sample(range(len(self.entity_ids)), 2)
            if random.random() < 0.3:
                fields["counterparty_entity_id"] = self.entity_ids[supplier]
            text = f"{amount if currency == 'JPY' else f'{amount / 100:.2f}'} {currency}"
            lines.append(line(Department(id=self.departments[company]), text, **fields))
        reply = await self.costs.batch(*lines, atomic=True)
        self.allocations += [result.allocation for result in reply.results]

    async def reverse(self) -> None:
        if self.allocations:
            await self.costs.reverse(self.allocations.pop(self.random.randrange(len(self.allocations))))

    async def create(self) -> None:
        draft = await self.invoices.create(self.random.choice(self.roots), *self.random.choice(MONTHS))
        self.documents.append(draft)

    async def refresh(self) -> None:
        if self.documents:
            await self.invoices.refresh(self.random.choice(self.documents))

    async def issue(self) -> None:
        if self.documents:
            await self.invoices.issue(self.random.choice(self.documents))

    async def void(self) -> None:
        if self.documents:
            await self.invoices.void(self.documents.pop(self.random.randrange(len(self.documents))))

    async def attempt(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run an action, which others may get in the way of."""
        try:
            await action()
            self.done[action.__name__] += 1
        except grpc.aio.AioRpcError as error:
            reason = Refusal.of(error).reason
            assert reason in EXPECTED, error
            self.done[reason] += 1


@pytest.mark.parametrize("seed", range(3))
async def test_after_every_step_billed_and_unbilled_sum_to_everything(
    seed: int, db: Database, origin: Origin, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi,
    contracts: ContractApi, holding: Entity,
) -> None:  # fmt: skip
    group = Group(Random(seed), costs, invoices)  # noqa: S311 - test data
    us = await api.create_entity("US", parent_id=holding.id, currency_code="USD")
    uk = await api.create_entity("UK", parent_id=us.id, currency_code="GBP")
    apart = await api.create_entity("APART", parent_id=holding.id, consolidation=Entity.SEPARATE)
    group.roots, companies = [holding, us, apart], [holding, us, uk, apart]
    group.entity_ids = [each.id for each in companies]
    group.departments = [(await api.create_department(each, "IT")).id for each in companies]
    for entity in companies:
        await contracts.create_active(entity, start_date="2026-09-15", end_date="2027-09-15")
    actions = [group.allocate, group.allocate, group.reverse, group.create, group.refresh, group.issue, group.void]
    for _ in range(40):
        await group.attempt(group.random.choice(actions))
        await check_sums(db, origin, ids.ENTITY.parse(holding.id), AS_OF)
    assert {"allocate", "create", "void"} <= group.done.keys()


async def test_billed_and_unbilled_sum_to_everything_under_load(
    db: Database, finance: Caller, origin: Origin, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi,
    contracts: ContractApi, holding: Entity, admin: "asyncpg.Pool[asyncpg.Record]",
) -> None:  # fmt: skip
    group = Group(Random(11), costs, invoices)  # noqa: S311 - test data
    divisions = [await api.create_entity(f"DIV{n}", parent_id=holding.id) for n in range(DIVISIONS)]
    await api.create_department(divisions[0], "IT")
    group.roots = [holding, *divisions]
    companies = await copy_company(
        admin, finance.tenant_id, divisions[0], count=COMPANIES, parents=divisions, currencies=CURRENCIES[:3]
    )
    group.entity_ids, group.departments = zip(*companies, strict=True)
    for entity in group.roots:
        await contracts.create_active(entity, start_date="2026-09-15", end_date="2027-09-15")
    top, stop = ids.ENTITY.parse(holding.id), time.monotonic() + LOAD_S

    async def post() -> None:
        while time.monotonic() < stop:
            await group.attempt(group.random.choice([group.allocate, group.allocate, group.reverse]))

    async def invoice() -> None:
        while time.monotonic() < stop:
            await group.attempt(group.random.choice([group.create, group.refresh, group.issue, group.void]))

    async def check() -> None:
        while time.monotonic() < stop:
            await check_sums(db, origin, top, AS_OF)

    callers = [invoice() if number < INVOICING_CALLERS else post() for number in range(CALLERS)]
    await asyncio.gather(check(), *callers)
    billed, unbilled = await check_sums(db, origin, top, AS_OF)
    assert {"allocate", "reverse", "create", "refresh", "issue", "void"} <= group.done.keys(), group.done
    assert billed + unbilled > 0
