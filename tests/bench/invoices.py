"""Group entities: the invoice of a thousand companies compared with bare SQL, and drafts issued into one series."""

import asyncio
import contextlib
import time
from typing import Final

import asyncpg
from billing.entities.v1.invoice_service_pb2 import CreateConsolidatedInvoiceRequest, IssueInvoiceRequest
from billing.entities.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from grpc import aio

from kit import ids
from tests.bench.figures import Goal
from tests.bench.load import TIMEOUT_S, Call, WrongReply, slices
from tests.bench.plan import Bench, Part
from tests.bench.stack import Metadata, connected
from tests.harness.invoices import AFTER_LAST_DAY, FIRST_DAY, BilledGroup, insert_billed_group

_COMPANIES: Final = 1_000
_ALLOCATIONS: Final = 100_000
_LINES: Final = 2_000
_BARE_SQL: Final = """
    select entity_id, department_id, gl_code, currency_code, sum(amount), sum(entity_amount), count(*)
    from entities.cost_allocations
    where tenant_id = $1 and entity_id = any($2) and allocation_date >= $3 and allocation_date < $4
    group by 1, 2, 3, 4"""
_GOAL: Final = Goal(
    "invoice/floor_sql_invoice",
    "invoice",
    ("floor_sql_invoice",),
    lambda ours, theirs: ours.p50_s / theirs.p50_s,
    at_most=3.0,
)
_DRAFTS: Final = 300
_ISSUERS: Final = 16
"""Concurrent callers that issue drafts."""


def _request(entity_id: str, *, validate_only: bool = False) -> CreateConsolidatedInvoiceRequest:
    return CreateConsolidatedInvoiceRequest(
        id=entity_id, period_start_date=FIRST_DAY.isoformat(), period_end_date=AFTER_LAST_DAY.isoformat(),
        currency_code="EUR", validate_only=validate_only,
    )  # fmt: skip


def _invoice_call(stub: InvoiceServiceStub, metadata: Metadata, group: BilledGroup) -> Call:
    """Return a call that builds the whole invoice and rolls it back, so that it can be repeated."""

    async def call(_: int) -> int:
        request = _request(ids.ENTITY.format(group.root_id), validate_only=True)
        reply = await stub.CreateConsolidatedInvoice(request, metadata=metadata, timeout=TIMEOUT_S)
        if reply.line_count < _LINES:
            raise WrongReply(str(reply)[:500])
        return 1

    return call


def _sql_call(admin: "asyncpg.Connection", group: BilledGroup) -> Call:
    """Return a call for the same sums by SQL, as the superuser without row-level security."""

    async def call(_: int) -> int:
        rows = await admin.fetch(_BARE_SQL, group.tenant_id, group.entity_ids, FIRST_DAY, AFTER_LAST_DAY)
        if sum(row["count"] for row in rows) != _ALLOCATIONS:
            raise WrongReply(str(rows)[:500])
        return 1

    return call


async def _issue_rate(stub: InvoiceServiceStub, metadata: Metadata, group: BilledGroup) -> float:
    """Return how many small drafts were issued into one series per second."""
    drafts = [
        await stub.CreateConsolidatedInvoice(
            _request(ids.ENTITY.format(entity_id)), metadata=metadata, timeout=TIMEOUT_S
        )
        for entity_id in group.entity_ids[1 : _DRAFTS + 1]
    ]
    waiting, numbers = list(drafts), list[str]()

    async def issue_all() -> None:
        while waiting:
            request = IssueInvoiceRequest(id=waiting.pop().id)
            numbers.append((await stub.IssueInvoice(request, metadata=metadata, timeout=TIMEOUT_S)).number)

    started = time.perf_counter()
    await asyncio.gather(*(issue_all() for _ in range(_ISSUERS)))
    seconds = time.perf_counter() - started
    if sorted(int(number[-6:]) for number in numbers) != list(range(1, _DRAFTS + 1)):
        raise WrongReply(str(sorted(numbers))[:500])
    return _DRAFTS / seconds


async def measure(bench: Bench) -> None:
    """Measure one caller on a service with its own database, then many that issue drafts."""
    stack = bench.stack
    database = await stack.cluster.copy("invoices")
    async with contextlib.AsyncExitStack() as exits:
        admin = await exits.enter_async_context(connected(database.admin_url))
        group = await insert_billed_group(admin, companies=_COMPANIES, allocations=_ALLOCATIONS)
        await admin.execute("vacuum (analyze) entities.cost_allocations")
        await admin.execute("checkpoint")
        service = await exits.enter_async_context(stack.served("entities", database=database))
        channel = await exits.enter_async_context(aio.insecure_channel(service.address))
        stub, metadata = InvoiceServiceStub(channel), stack.metadata(group.tenant_id)
        runners = {
            "floor_sql_invoice": slices(_sql_call(admin, group), callers=1),
            "invoice": slices(_invoice_call(stub, metadata, group), callers=1, pid=service.pid),
        }
        await bench.measure({"invoice": ["floor_sql_invoice"]}, runners, [_GOAL])
        bench.report.cases["invoice_run"] = {
            "issued_per_s": round(await _issue_rate(stub, metadata, group), 1),
            "resident_mib": service.resident_mib,
        }


PART: Final = Part("entities", ("invoice", "invoice_run"), measure)
