"""Group usage: how fast recorded usage becomes allocations that are committed, from the stream to the disk."""

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
from tests.bench.data import CENT, Maker
from tests.bench.figures import Goal
from tests.bench.load import WITHIN_S, cpu_s
from tests.bench.plan import Bench, Part
from tests.bench.stack import Metadata, Process, Stack

_RECORDS: Final = 10_000
_BEFORE: Final = 500
_DEPARTMENTS: Final = 20
_AT_ONCE: Final = 256
_DONE_WITHIN_S: Final = 120.0
_LOOK_EVERY_S: Final = 0.02

_GOAL: Final = Goal("usage/records_per_s", "usage", (), float, at_least=1_500)


async def measure(bench: Bench) -> None:
    """A stream full of usage is worked off, while what is allocated is told as well; by a service of its own."""
    with servers.nats(bench.stack.folder / "usage") as nats_server:
        database = await bench.stack.cluster.copy("usage")
        stack = replace(bench.stack, database=database, nats_url=nats_server.url)
        async with stack.served("entities") as service:
            took_s, cpu_used_s = await _worked_off(stack, service)
    bench.report.cases["usage"] = {
        "records": _RECORDS,
        "records_per_s": round(_RECORDS / took_s),
        "cpu_us_per_record": round(cpu_used_s / _RECORDS * 1e6),
    }
    bench.report.judge(_GOAL, _RECORDS / took_s)


async def _worked_off(stack: Stack, service: Process) -> tuple[float, float]:
    """How long it takes, and how much processor time of the service; it has taken a few before."""
    tenant_id = uuid4()
    bearers = await _bearers(service, stack.metadata(tenant_id))
    async with stack.admin() as admin:
        await _say(stack.nats_url, tenant_id, bearers, range(_BEFORE))
        await _all_allocated(admin, tenant_id, _BEFORE)
        os.kill(service.pid, signal.SIGSTOP)  # so that nothing is taken before all is there
        try:
            await _say(stack.nats_url, tenant_id, bearers, range(_BEFORE, _BEFORE + _RECORDS))
        finally:
            os.kill(service.pid, signal.SIGCONT)
        started, cpu_before_s = time.monotonic(), cpu_s(service.pid)
        await _all_allocated(admin, tenant_id, _BEFORE + _RECORDS)
        return time.monotonic() - started, cpu_s(service.pid) - cpu_before_s


async def _bearers(service: Process, metadata: Metadata) -> Sequence[Department]:
    async with aio.insecure_channel(service.address) as channel:
        entity_id = await Maker(channel, channel, metadata).entity()
        stub = DepartmentServiceStub(channel)
        requests = [
            CreateDepartmentRequest(entity_id=entity_id, code=f"D{number}", name="A department")
            for number in range(_DEPARTMENTS)
        ]
        return [await stub.CreateDepartment(each, metadata=metadata, timeout=WITHIN_S) for each in requests]


async def _say(nats_url: str, tenant_id: UUID, bearers: Sequence[Department], numbers: range) -> None:
    """Put the records into the stream, some of them under way at a time."""
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    subject = f"{UsageRecorded.DESCRIPTOR.full_name}.{tenant_id.hex}"
    turn = asyncio.Semaphore(_AT_ONCE)

    async def say(number: int) -> None:
        body = json_format.MessageToJson(_record(number, bearers[number % len(bearers)]), indent=None).encode()
        headers = {"ce-id": str(uuid4()), "ce-time": clock.now().isoformat(), "ce-source": "/usage"}
        async with turn:
            await jetstream.publish(subject, body, headers=headers, timeout=WITHIN_S)

    await asyncio.gather(*map(say, numbers))
    await client.close()


def _record(number: int, bearer: Department) -> UsageRecorded:
    record = UsageRecorded(
        record_id=f"usage-{number}", entity_id=bearer.entity_id, department_id=bearer.id, category="cloud",
        quantity="12.5", unit="GB", amount=CENT, description="Storage",
    )  # fmt: skip
    record.usage_time.FromDatetime(clock.now())
    return record


async def _all_allocated(admin: "asyncpg.Connection", tenant_id: UUID, count: int) -> None:
    """Wait until so many records are allocated and told, as the commits show; raises TimeoutError."""
    counted = (
        "select least((select count(*) from entities.cost_allocations where tenant_id = $1),"
        " (select count(*) from entities.outbox where tenant_id = $1 and type like '%.CostAllocated'))"
    )
    async with asyncio.timeout(_DONE_WITHIN_S):
        while await admin.fetchval(counted, tenant_id) < count:  # noqa: ASYNC110 - PostgreSQL is looked at from outside
            await asyncio.sleep(_LOOK_EVERY_S)


PART: Final = Part("usage", ("usage",), measure)
