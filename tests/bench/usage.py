"""Group usage: how fast usage records in the stream become committed allocations."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import nats
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.department_service_pb2 import CreateDepartmentRequest
from billing.entities.v1.department_service_pb2_grpc import DepartmentServiceStub
from google.protobuf import json_format
from grpc import aio
from outside.usage.v1.usage_pb2 import UsageRecorded

from deploy.local import servers
from kit import clock
from tests.bench.data import CENT, Factory
from tests.bench.figures import Goal
from tests.bench.load import TIMEOUT_S, cpu_s
from tests.bench.plan import Bench, Part
from tests.bench.stack import Metadata, Process, Stack
from tests.harness.events import headers_of

_RECORDS: Final = 10_000
_WARM_UP: Final = 500
_DEPARTMENTS: Final = 20
_IN_FLIGHT_MAX: Final = 256
_RECORDS_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.02

_GOAL: Final = Goal("usage/records_per_s", "usage", (), float, at_least=1_500)


async def measure(bench: Bench) -> None:
    """Measure how fast a separate service consumes a full stream and publishes the allocations."""
    with servers.nats(bench.stack.folder / "usage") as nats_server:
        database = await bench.stack.cluster.copy("usage")
        stack = replace(bench.stack, database=database, nats_url=nats_server.url)
        async with stack.served("entities") as service:
            took_s, cpu_used_s = await _consumed(stack, service)
    bench.report.cases["usage"] = {
        "records": _RECORDS,
        "records_per_s": round(_RECORDS / took_s),
        "cpu_us_per_record": round(cpu_used_s / _RECORDS * 1e6),
    }
    bench.report.judge(_GOAL, _RECORDS / took_s)


async def _consumed(stack: Stack, service: Process) -> tuple[float, float]:
    """Return the duration and the CPU time of the service, after some warm-up records."""
    tenant_id = uuid4()
    departments = await _departments(service, stack.metadata(tenant_id))
    async with stack.admin() as admin:
        await _publish(stack.nats_url, tenant_id, departments, range(_WARM_UP))
        await _all_allocated(admin, tenant_id, _WARM_UP)
        os.kill(service.pid, signal.SIGSTOP)  # records are consumed only when all are in the stream
        try:
            await _publish(stack.nats_url, tenant_id, departments, range(_WARM_UP, _WARM_UP + _RECORDS))
        finally:
            os.kill(service.pid, signal.SIGCONT)
        started, cpu_before_s = time.monotonic(), cpu_s(service.pid)
        await _all_allocated(admin, tenant_id, _WARM_UP + _RECORDS)
        return time.monotonic() - started, cpu_s(service.pid) - cpu_before_s


async def _departments(service: Process, metadata: Metadata) -> Sequence[Department]:
    async with aio.insecure_channel(service.address) as channel:
        entity_id = await Factory(channel, channel, metadata).entity()
        stub = DepartmentServiceStub(channel)
        requests = [
            CreateDepartmentRequest(entity_id=entity_id, code=f"D{number}", name="A department")
            for number in range(_DEPARTMENTS)
        ]
        return [await stub.CreateDepartment(each, metadata=metadata, timeout=TIMEOUT_S) for each in requests]


async def _publish(nats_url: str, tenant_id: UUID, departments: Sequence[Department], numbers: range) -> None:
    """Publish the records, with a limit of concurrent requests."""
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    subject = f"{UsageRecorded.DESCRIPTOR.full_name}.{tenant_id.hex}"
    turn = asyncio.Semaphore(_IN_FLIGHT_MAX)

    async def publish(number: int) -> None:
        body = json_format.MessageToJson(_record(number, departments[number % len(departments)]), indent=None).encode()
        headers = headers_of(UsageRecorded, ce_time=clock.now().isoformat())
        async with turn:
            await jetstream.publish(subject, body, headers=headers, timeout=TIMEOUT_S)

    await asyncio.gather(*map(publish, numbers))
    await client.close()


def _record(number: int, department: Department) -> UsageRecorded:
    record = UsageRecorded(
        record_id=f"usage-{number}", entity_id=department.entity_id, department_id=department.id, category="cloud",
        quantity="12.5", unit="GB", amount=CENT, description="Storage",
    )  # fmt: skip
    record.usage_time.FromDatetime(clock.now())
    return record


async def _all_allocated(admin: "asyncpg.Connection", tenant_id: UUID, count: int) -> None:
    """Wait until this many records are allocated and their events appended. Raises TimeoutError."""
    counted = (
        "select least((select count(*) from entities.cost_allocations where tenant_id = $1),"
        " (select count(*) from entities.outbox where tenant_id = $1 and type like '%.CostAllocated'))"
    )
    async with asyncio.timeout(_RECORDS_TIMEOUT_S):
        while await admin.fetchval(counted, tenant_id) < count:  # noqa: ASYNC110 - polls the database
            await asyncio.sleep(_POLL_S)


PART: Final = Part("usage", ("usage",), measure)
