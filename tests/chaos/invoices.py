"""Callers that draft, refresh, issue and void invoices under faults, and the check of what is stored afterwards."""

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from uuid import UUID

import asyncpg
from billing.entities.v1 import invoice_service_pb2 as pb
from billing.entities.v1.allocation_service_pb2 import AllocateCostRequest
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice
from google.protobuf.message import Message
from grpc import StatusCode, aio

from kit import ids
from tests.chaos.stage import CHANNEL, Replica
from tests.entities.allocation_api import AllocationApi, money
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.contract_api import ContractApi
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, Refusal
from tests.harness.services import Entities

_PERIODS: Final = (("2026-09-01", "2026-10-01"), ("2026-10-01", "2026-11-01"))
_DAYS: Final = ("2026-09-05", "2026-10-05")
_COMPANIES: Final = 16
_KINDS: Final = {"allocate": 20, "create": 30, "refresh": 12, "issue": 28, "void": 10}
_METHODS: Final = {
    "allocate": "AllocateCost", "create": "CreateConsolidatedInvoice", "refresh": "RefreshInvoice",
    "issue": "IssueInvoice", "void": "VoidInvoice",
}  # fmt: skip
_DEFINITE: Final = {
    StatusCode.FAILED_PRECONDITION, StatusCode.NOT_FOUND, StatusCode.ALREADY_EXISTS, StatusCode.INVALID_ARGUMENT,
    StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED, StatusCode.INTERNAL, StatusCode.UNKNOWN,
}  # fmt: skip
_EXPECTED: Final = {"INVOICE_PERIOD_TAKEN", "INVOICE_EMPTY", "INVOICE_STATE"}
_KILLED_AT: Final = 0.3
"""Share of operations before a replica is killed."""
_ATTEMPTS: Final = 500
_TIMEOUT_S: Final = 10.0


@dataclass(slots=True, kw_only=True)
class InvoiceLoad:
    """The callers of a run, and what they were answered."""

    replicas: Sequence[Replica]
    caller: Caller
    seed: int
    operations: int
    issued: dict[str, tuple[pb.IssueInvoiceRequest, Invoice]] = field(default_factory=dict)
    """Acknowledged issues by the id of the invoice."""
    accepted: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    _started_count: int = 0
    _under_load: asyncio.Event = field(default_factory=asyncio.Event)
    _entities: list[Entity] = field(default_factory=list)
    _departments: list[Department] = field(default_factory=list)
    _drafts: list[str] = field(default_factory=list)
    _stubs: list[Entities] = field(default_factory=list)

    async def run(self, callers: int) -> None:
        """Run the callers while a replica is killed and started again, then repeat each issue with its key."""
        channels = [aio.insecure_channel(replica.address, options=CHANNEL) for replica in self.replicas]
        self._stubs = [Entities(channel) for channel in channels]
        try:
            await self._create_group()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._kill_a_replica())
                for number in range(callers):
                    group.create_task(self._call(Random(f"{self.seed}-{number}"), number))  # noqa: S311 - by seed
            await self._repeat_issues()
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))

    async def _create_group(self) -> None:
        """Create companies below one, each with costs and a contract in both periods."""
        api = EntitiesApi(self.caller, self._stubs[0])
        costs, contracts = AllocationApi(self.caller, self._stubs[0]), ContractApi(api)
        await BillingProfileApi(self.caller, self._stubs[0]).create("Shared Services")
        top = await api.create_entity("TOP")
        self._entities = [top, *[await api.create_entity(f"C{n}", parent_id=top.id) for n in range(_COMPANIES)]]
        for entity in self._entities:
            department = await api.create_department(entity, "IT")
            self._departments.append(department)
            for day in _DAYS:
                await costs.allocate(department, "10.01 EUR", allocation_date=day)
        for entity in self._entities[:4]:
            await contracts.create_active(entity, start_date="2026-09-01", end_date="2027-09-01")

    async def _kill_a_replica(self) -> None:
        await self._under_load.wait()
        await self.replicas[0].end(signal.SIGKILL)
        await self.replicas[0].start()

    async def _call(self, random: Random, number: int) -> None:
        while self._started_count < self.operations:
            self._started_count += 1
            if self._started_count >= self.operations * _KILLED_AT:
                self._under_load.set()
            (kind,) = random.choices(list(_KINDS), list(_KINDS.values()))
            if kind not in {"allocate", "create"} and not self._drafts:
                kind = "create"
            await self._send(kind, self._request(random, kind, f"{number}-{self._started_count}"), random.randrange(2))

    def _request(self, random: Random, kind: str, key: str) -> Any:
        if kind == "allocate":
            return AllocateCostRequest(
                id=random.choice(self._departments).id, amount=money("3.33 EUR"),
                allocation_date=random.choice(_DAYS), request_id=key,
            )  # fmt: skip
        if kind == "create":
            start, end = random.choice(_PERIODS)
            entity = random.choice(self._entities)
            return pb.CreateConsolidatedInvoiceRequest(
                id=entity.id, period_start_date=start, period_end_date=end, request_id=key
            )
        invoice_id = random.choice(self._drafts[-12:])
        if kind == "void":
            return pb.VoidInvoiceRequest(id=invoice_id, reason="Wrong period", request_id=key)
        types = {"issue": pb.IssueInvoiceRequest, "refresh": pb.RefreshInvoiceRequest}
        return types[kind](id=invoice_id, request_id=key)

    async def _send(self, kind: str, request: Any, first: int) -> None:
        reply = await self._call_until_definite(kind, request, first)
        if isinstance(reply, Refusal):
            if reply.reason not in _EXPECTED:
                self.findings.append(f"{kind} failed: {reply}")
            return
        self.accepted[kind] += 1
        if kind == "create":
            self._drafts.append(reply.id)
        elif kind == "issue":
            if reply.id in self.issued:
                self.findings.append(f"{reply.id} was issued twice")
            self.issued[reply.id] = request, reply

    async def _call_until_definite(self, kind: str, request: Message, first: int) -> Any:
        """Return the reply or a definite rejection; other errors are retried with the same key."""
        for turn in range(first, first + _ATTEMPTS):
            stubs = self._stubs[turn % len(self._stubs)]
            rpc = getattr(stubs.allocations if kind == "allocate" else stubs.invoices, _METHODS[kind])
            try:
                return await rpc(request, metadata=self.caller.metadata, timeout=_TIMEOUT_S)
            except aio.AioRpcError as error:
                refusal = Refusal.of(error)
            if refusal.code in _DEFINITE:
                return refusal
            self.retries[f"{refusal.code.name} {refusal.reason}".strip()] += 1
            await asyncio.sleep(0.02 * (1 + turn % 5))
        return refusal

    async def _repeat_issues(self) -> None:
        for request, reply in self.issued.values():
            again = await self._call_until_definite("issue", request, 0)
            if again != reply:
                self.findings.append(f"a repeated issue was answered differently: {again}")


_BILLED_OTHER_THAN_ONCE: Final = """
    with billed as (
        select unnest(charge.allocation_ids) as id
        from entities.invoice_charges charge
        join entities.consolidated_invoices invoice
        on invoice.tenant_id = charge.tenant_id and invoice.id = charge.invoice_id
        where charge.tenant_id = $1 and invoice.state <> 'VOID'
        union all
        select allocation_id from entities.unbilled_allocations where tenant_id = $1
    )
    select cost.id, count(billed.id) as times from entities.cost_allocations cost left join billed using (id)
    where cost.tenant_id = $1 group by cost.id having count(billed.id) <> 1"""
_FEES_BILLED_TWICE: Final = """
    select fee.contract_id, fee.due_date, sum(fee.amount) as billed
    from entities.invoice_fees fee
    join entities.consolidated_invoices invoice on invoice.tenant_id = fee.tenant_id and invoice.id = fee.invoice_id
    where fee.tenant_id = $1 and invoice.state <> 'VOID'
    group by fee.contract_id, fee.due_date having sum(fee.amount) <> 100"""
_NUMBERED: Final = "select id, number, total from entities.consolidated_invoices where tenant_id = $1 and number <> ''"


async def check(admin: "asyncpg.Pool[asyncpg.Record]", load: InvoiceLoad) -> list[str]:
    """Return what is wrong: gaps, lost issues, and costs or fees that are not billed exactly once."""
    tenant: UUID = load.caller.tenant_id
    stored = {ids.INVOICE.format(row["id"]): row for row in await admin.fetch(_NUMBERED, tenant)}
    numbers = sorted(int(row["number"].rpartition("-")[2]) for row in stored.values())
    findings = [] if numbers == list(range(1, len(numbers) + 1)) else [f"the numbers have gaps: {numbers}"]
    findings += [f"{id} has a number and was never answered as issued" for id in stored.keys() - load.issued.keys()]
    for invoice_id, (_, reply) in load.issued.items():
        row = stored.get(invoice_id)
        if row is None or (row["number"], f"{row['total']:.2f}") != (reply.number, reply.total.amount):
            findings.append(f"answered: {invoice_id} {reply.number} {reply.total.amount}, stored: {row}")
    findings += [f"not billed once: {row}" for row in await admin.fetch(_BILLED_OTHER_THAN_ONCE, tenant)]
    findings += [f"wrong fee: {row}" for row in await admin.fetch(_FEES_BILLED_TWICE, tenant)]
    return load.findings + findings
