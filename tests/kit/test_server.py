"""A service process is healthy, supports reflection, and shuts down gracefully while calls are active."""

import asyncio
import gzip
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from billing.operations.v1.operations_service_pb2 import GetVersionRequest
from billing.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from eventing import outbox
from eventing.consumer import Handler
from kit.db import Database, WriteSession
from kit.origin import Call, Origin
from kit.settings import Settings
from serving import clients, server
from serving.server import Service, serving
from tests.harness.callers import Caller, refusal
from tests.harness.observe import PublishedEvents, eventually
from tests.kit import raw_grpc
from tests.kit.conftest import NoScopes
from tests.kit.probe import DoReply, DoRequest, Probe, ProbeStub

_DO = "/billing.probe.v1.ProbeService/Do"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Process:
    """The parts of a process; each has its own database, which it closes."""

    def __init__(self, settings: Settings, *handlers: Handler) -> None:
        self.probe = Probe()
        self.settings = settings
        self.db = Database(settings)
        self.service = Service(db=self.db, scopes=NoScopes(), servicers=[self.probe], handlers=handlers)


@pytest.fixture
def process(kit_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Process]:
    """Creates a process whose shutdown waits only briefly for clients to switch."""
    monkeypatch.setattr(server, "_HEALTH_NOTICE_S", 0.1)
    return lambda *handlers, **changed: Process(kit_settings(**changed), *handlers)


async def health(channel: aio.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    check: aio.UnaryUnaryMultiCallable[Any, Any] = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
    return int((await check(request, timeout=5)).status)


async def is_not_serving(channel: aio.Channel) -> bool:
    return await health(channel) == NOT_SERVING


class TestServing:
    async def test_process_and_each_grpc_service_are_healthy(self, process: Callable[..., Process]) -> None:
        p = process()
        async with serving(p.settings, p.service) as address, aio.insecure_channel(address) as channel:
            for name in ("", "billing.probe.v1.ProbeService", "billing.operations.v1.OperationsService"):
                assert await health(channel, name) == SERVING

    async def test_reflection_lists_the_services(self, process: Callable[..., Process]) -> None:
        p = process()
        async with serving(p.settings, p.service) as address, aio.insecure_channel(address) as channel:
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for reply in reflection.ServerReflectionInfo(iter([request])):
                names = {service.name for service in reply.list_services_response.service}
        assert {"billing.probe.v1.ProbeService", "billing.operations.v1.OperationsService"} <= names
        assert "grpc.health.v1.Health" in names

    async def test_operations_api_is_served(
        self, process: Callable[..., Process], caller: Callable[..., Caller]
    ) -> None:
        p = process()
        async with serving(p.settings, p.service) as address, aio.insecure_channel(address) as channel:
            version = await caller("billing_admin").call(OperationsServiceStub(channel).GetVersion, GetVersionRequest())
        assert version.service == "budgets"

    async def test_too_large_message_is_rejected(self, process: Callable[..., Process], finance: Caller) -> None:
        p = process(message_bytes_max=10_000)
        async with serving(p.settings, p.service) as address, aio.insecure_channel(address) as channel:
            large = await refusal(finance.call(ProbeStub(channel).Do, DoRequest(labels=["x" * 12_000])))
            huge = await refusal(finance.call(ProbeStub(channel).Do, DoRequest(labels=["x" * 30_000])))
        assert (large.code, large.reason) == (StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
        assert large.metadata == {"bytes_max": "10000"}
        assert huge.code is StatusCode.RESOURCE_EXHAUSTED

    async def test_compressed_message_is_refused_before_it_is_decompressed(
        self, process: Callable[..., Process], finance: Caller
    ) -> None:
        p = process()
        bomb = gzip.compress(bytes(4_000_000))
        async with serving(p.settings, p.service) as address, aio.insecure_channel(address) as channel:
            reader, writer = await raw_grpc.connect(address)
            for stream in range(1, 41, 2):
                writer.write(raw_grpc.gzip_call(stream, _DO, bomb))
            received = b""
            async with asyncio.timeout(10):
                while received.count(b"is disabled") < 20:
                    received += await reader.read(65_536)
            writer.close()
            assert (await finance.call(ProbeStub(channel).Do, DoRequest())).text == "Do"

    async def test_many_reset_calls_on_one_connection_fail_no_call_of_others(
        self, process: Callable[..., Process], finance: Caller
    ) -> None:
        p = process()
        async with serving(p.settings, p.service) as address, aio.insecure_channel(address) as channel:
            _, writer = await raw_grpc.connect(address)
            for first in range(1, 40_001, 400):
                writer.write(b"".join(raw_grpc.reset_call(stream, _DO) for stream in range(first, first + 400, 2)))
                assert (await finance.call(ProbeStub(channel).Do, DoRequest())).text == "Do"
            writer.close()

    async def test_token_of_eight_kibibytes_is_accepted_and_a_longer_one_is_invalid(
        self,
        process: Callable[..., Process],
        caller: Callable[..., Caller],
        kit_settings: Callable[..., Settings],
    ) -> None:
        p = process()
        short = len(caller(note="").token)
        long, longer = (caller(note="x" * ((size - short) * 3 // 4)) for size in (8_190, 8_600))
        assert 8_180 < len(long.token) <= 8_192 < len(longer.token)
        async with (
            serving(p.settings, p.service) as address,
            aio.insecure_channel(address) as default,
            clients.channel(kit_settings(addresses={"budgets": address}), "budgets") as ours,
        ):
            for stub in (ProbeStub(default), ProbeStub(ours)):
                assert (await long.call(stub.Do, DoRequest())).text == "Do"
                error = await refusal(longer.call(stub.Do, DoRequest()))
                assert (error.code, error.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")

    async def test_calls_are_served_while_nats_is_unavailable(
        self, process: Callable[..., Process], finance: Caller
    ) -> None:
        p = process(nats_url="nats://127.0.0.1:1")
        async with serving(p.settings, p.service) as address, aio.insecure_channel(address) as channel:
            assert (await finance.call(ProbeStub(channel).Do, DoRequest())).text == "Do"


class TestShutdown:
    async def test_health_fails_first_and_active_calls_complete(
        self, process: Callable[..., Process], finance: Caller
    ) -> None:
        p, started_handler, proceed = process(), asyncio.Event(), asyncio.Event()

        async def wait(request: Any, call: Call) -> DoReply:
            started_handler.set()
            await proceed.wait()
            return DoReply(text="finished")

        p.probe.on_call = wait
        running = serving(p.settings, p.service)
        address = await running.__aenter__()
        async with aio.insecure_channel(address) as channel:
            active_call = asyncio.ensure_future(finance.call(ProbeStub(channel).Do, DoRequest()))
            await asyncio.wait_for(started_handler.wait(), 5)
            ending = asyncio.create_task(running.__aexit__(None, None, None))
            await eventually(lambda: is_not_serving(channel), within_s=5)
            await asyncio.sleep(0.2)  # the listener closes meanwhile
            assert not ending.done()
            proceed.set()
            assert (await active_call).text == "finished"
            await asyncio.wait_for(ending, 5)

    async def test_calls_before_the_listener_closes_are_served(
        self, process: Callable[..., Process], finance: Caller
    ) -> None:
        p = process()
        running = serving(p.settings, p.service)
        async with aio.insecure_channel(await running.__aenter__()) as channel:
            assert await health(channel) == SERVING
            ending = asyncio.create_task(running.__aexit__(None, None, None))
            await eventually(lambda: is_not_serving(channel), within_s=5)
            assert (await finance.call(ProbeStub(channel).Do, DoRequest())).text == "Do"
            await ending
            error = await refusal(finance.call(ProbeStub(channel).Do, DoRequest(), within_s=2))
        assert error.code is StatusCode.UNAVAILABLE

    async def test_call_longer_than_the_drain_time_is_cancelled(
        self, process: Callable[..., Process], finance: Caller
    ) -> None:
        p, started_handler = process(drain_s=0.2), asyncio.Event()

        async def endless(request: Any, call: Call) -> DoReply:
            started_handler.set()
            await asyncio.sleep(3600)
            return DoReply()

        p.probe.on_call = endless
        running = serving(p.settings, p.service)
        async with aio.insecure_channel(await running.__aenter__()) as channel:
            active_call = asyncio.ensure_future(finance.call(ProbeStub(channel).Do, DoRequest()))
            await asyncio.wait_for(started_handler.wait(), 5)
            started = time.monotonic()
            await running.__aexit__(None, None, None)
            assert time.monotonic() - started < 3
            assert (await refusal(active_call)).code in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}

    async def test_shutdown_is_fast_while_events_are_processed(
        self,
        process: Callable[..., Process],
        origin: Callable[..., Origin],
        published_events: PublishedEvents,
        tenant: UUID,
    ) -> None:
        published = 0

        async def react(tx: WriteSession, event: BudgetClosed) -> None:
            await tx.flush()

        for turn in range(6):
            p = process(Handler(f"turn_{uuid4().hex}", BudgetClosed, react))
            async with serving(p.settings, p.service):
                for number in range(10):
                    async with p.db.write(origin()) as tx:
                        outbox.append(tx, BudgetClosed(budget_id=f"{turn}-{number}"))
                    published += 1
                await asyncio.sleep(turn * 0.03)
                started = time.monotonic()
            assert time.monotonic() - started < 4
        last = process()
        async with serving(last.settings, last.service):
            events = await published_events.at_least(published, BudgetClosed)
        assert len({event.budget_id for event in events}) == published
