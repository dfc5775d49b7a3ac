"""Runs a service: gRPC with health and reflection, outbox relay, event consumers, and a graceful shutdown on SIGTERM.

Shutdown, in order: health reports NOT_SERVING → clients switch to other replicas → streams end → active calls complete
→ consumers finish their deliveries → relay and NATS connection stop → the database closes → spans and logs are flushed
→ exit code 0.
"""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import nats
import uvloop
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from nats.aio.client import Client
from nats.js import JetStreamContext

from eventing import bus, outbox
from eventing.bus import EventBus
from eventing.consumer import Consumer, Handler
from eventing.outbox import Relay
from kit import telemetry
from kit.db import Database
from kit.settings import Settings
from kit.tasks import cancel_and_wait, run_to_completion
from kit.telemetry import log
from serving.audit import AuditServicer
from serving.calls import CallPipeline, Servicer
from serving.clients import METADATA_LIMITS
from serving.operations import OperationsServicer, measure_dead_letters
from serving.pages import Pages
from serving.scope import Scopes

_HEALTH_NOTICE_S = 0.5
"""How long health reports NOT_SERVING before calls are rejected, so that clients switch to other replicas."""
_PRUNE_EVERY_S = 3600
_MEASURE_EVERY_S = 10.0
_RECONNECT_S = 1.0
_UNCOMPRESSED_ONLY = 1
"""A set of compression algorithms, as bits: gRPC decompresses a message before its sender is authenticated, and
eight kilobytes can become eight megabytes."""


@dataclass(frozen=True, slots=True)
class Service:
    """The components of a service process, composed by its main.py."""

    db: Database
    scopes: Scopes
    servicers: Sequence[Servicer]
    handlers: Sequence[Handler] = ()
    dependencies: object = None
    """Passed to the event handlers that have `own_transaction`."""
    jobs: Sequence[Callable[[], Awaitable[None]]] = field(default=())
    """Background tasks that run until shutdown, such as timers."""
    bus: EventBus = field(default_factory=EventBus)
    """NATS subscriptions of the components; connected while the service runs."""


def run(name: str, compose: Callable[[Settings], Service]) -> None:
    """Serve until SIGTERM or SIGINT. `compose` is called inside the event loop."""
    settings = Settings(service=name)
    telemetry.configure(settings)
    _tune_garbage_collector()
    uvloop.run(_run(settings, compose))
    telemetry.shut_down()


def _tune_garbage_collector() -> None:
    """Exclude the objects of start-up from collections, which large replies would otherwise trigger for all of them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


async def _run(settings: Settings, compose: Callable[[Settings], Service]) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with serving(settings, compose(settings)) as address:
        log.info("serving", address=address)
        await stop.wait()
        log.info("stopping")


@contextlib.asynccontextmanager
async def serving(settings: Settings, service: Service) -> AsyncIterator[str]:
    """Serve inside the block and yield the address; leaving the block is the graceful shutdown."""
    consumers = [Consumer(service.db, settings.service, handler, service.dependencies) for handler in service.handlers]
    names = {consumer.name for consumer in consumers}
    calls = CallPipeline(settings, service.scopes)
    server, state, address = await _start_server(settings, service, calls, consumers)
    tasks = [
        asyncio.create_task(telemetry.flush_logs()),
        asyncio.create_task(
            _run_forever(lambda: _repeat(lambda: _measure_database(service.db, names), _MEASURE_EVERY_S))
        ),
        *(asyncio.create_task(_run_forever(job)) for job in service.jobs),
    ]
    events = asyncio.create_task(_run_events(settings, service, consumers))
    try:
        yield address
    finally:
        await state.enter_graceful_shutdown()
        await asyncio.sleep(_HEALTH_NOTICE_S)
        calls.admission.end_all_streams()  # takes effect in server.stop(), which sends the clients GOAWAY first
        await server.stop(settings.drain_s)
        await cancel_and_wait(events, *tasks)
        await service.db.close()


async def _start_server(
    settings: Settings, service: Service, calls: CallPipeline, consumers: Sequence[Consumer]
) -> tuple[aio.Server, health.aio.HealthServicer, str]:
    options = [
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        (
            "grpc.max_receive_message_length",
            2 * settings.message_bytes_max,
        ),  # requests up to twice the limit get our own error
        ("grpc.max_send_message_length", 2 * settings.message_bytes_max),
        *METADATA_LIMITS,
        ("grpc.compression_enabled_algorithms_bitset", _UNCOMPRESSED_ONLY),
        # As many calls and streams as are admitted. Without a limit gRPC queues the calls of one connection, even those
        # that it has reset, until it refuses calls of all connections at random.
        ("grpc.max_concurrent_streams", 2 * settings.calls_max),
        ("grpc.so_reuseport", 0),
    ]
    server = aio.server(options=options)
    pages = Pages(settings)
    operations = OperationsServicer(settings.service, service.db, pages, consumers)
    audit = AuditServicer(settings.service, service.db, pages)
    servicers = [*service.servicers, operations, audit]
    server.add_generic_rpc_handlers([calls.handler_for(servicer) for servicer in servicers])
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    names = [servicer.service.full_name for servicer in servicers]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    port = server.add_insecure_port(settings.listen)
    await server.start()
    for name in ("", *names):
        await state.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server, state, f"{settings.listen.rpartition(':')[0]}:{port}"


async def _run_events(settings: Settings, service: Service, consumers: Sequence[Consumer]) -> None:
    """Publish and consume events until cancelled. Calls are served even while NATS is unavailable."""
    client, jetstream = await _connect(settings)
    service.bus.set_connection(client, jetstream)
    relay = Relay(service.db, jetstream, settings.service)
    tasks: list[Callable[[], Awaitable[None]]] = [relay.run, lambda: _repeat(relay.prune, _PRUNE_EVERY_S)]
    tasks += [lambda consumer=consumer: consumer.run(jetstream) for consumer in consumers]  # type: ignore[misc]
    tasks.append(lambda: _repeat(lambda: _measure_consumers(consumers, jetstream), _MEASURE_EVERY_S))
    running = [asyncio.create_task(_run_forever(task)) for task in tasks]
    try:
        await asyncio.gather(*running)
    finally:
        await run_to_completion(_stop_events(client, running))


async def _measure_database(db: Database, consumers: set[str]) -> None:
    try:
        await outbox.measure(db)
        await measure_dead_letters(db, consumers)
    except Exception as error:  # noqa: BLE001 - PostgreSQL is down: the gauges keep their values
        log.warning("gauges not measured", error=error)


async def _measure_consumers(consumers: Sequence[Consumer], jetstream: JetStreamContext) -> None:
    with contextlib.suppress(nats.errors.Error, TimeoutError):  # NATS is unavailable: the client logs it
        for consumer in consumers:
            await consumer.measure(jetstream)


async def _stop_events(client: Client, running: Sequence[asyncio.Task[None]]) -> None:
    await cancel_and_wait(*running)
    await client.close()


async def _connect(settings: Settings) -> tuple[Client, JetStreamContext]:
    while True:
        try:
            return await bus.connect(settings)
        except Exception as error:  # noqa: BLE001 - any error is retried
            log.warning("NATS is unavailable", error=error)
            await asyncio.sleep(_RECONNECT_S)


async def _run_forever(task: Callable[[], Awaitable[None]]) -> None:
    """Run a task that should never end; restart it if it fails."""
    while True:
        try:
            await task()
        except Exception as error:  # noqa: BLE001 - one failure must not end the task
            log.error("a background task failed", exc_info=error)
        await asyncio.sleep(_RECONNECT_S)


async def _repeat(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        await work()
        await asyncio.sleep(every_s)
