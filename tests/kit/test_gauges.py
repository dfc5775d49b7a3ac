"""Gauges of the state of a service: its database pool, its outbox, and how far its consumers are behind."""

import asyncio
from collections.abc import Callable
from uuid import uuid4

import asyncpg
from billing.budgets.v1.events_pb2 import BudgetClosed
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from prometheus_client import REGISTRY

from eventing import outbox
from eventing.consumer import Consumer, Handler
from eventing.subjects import STREAM
from kit.db import Database
from kit.origin import Origin
from kit.settings import Settings
from kit.version import VERSION
from serving.operations import measure_dead_letters
from tests.harness.observe import eventually
from tests.kit.consumers import FakeHandler, Publish
from tests.kit.dead_letters import letter

Pool = asyncpg.Pool


def gauge(name: str, **labels: str) -> float:
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None, name
    return value


def connections(state: str) -> float:
    labels = {"db_client_connection_pool_name": "gauges", "db_client_connection_state": state}
    return gauge("db_client_connection_count", **labels)


def waiting() -> float:
    return gauge("db_client_connection_pending_requests", db_client_connection_pool_name="gauges")


async def test_connections_in_use_idle_and_awaited_are_counted(
    kit_settings: Callable[..., Settings], origin: Callable[..., Origin], open_databases: list[Database]
) -> None:
    database = Database(kit_settings().model_copy(update={"service": "gauges", "database_pool_size": 1}))
    open_databases.append(database)

    async def is_waiting() -> bool:
        return waiting() == 1

    async def read() -> None:
        async with database.read(origin()):
            pass

    async with database.read(origin()):
        assert (connections("used"), connections("idle"), waiting()) == (1, 0, 0)
        second = asyncio.create_task(read())
        await eventually(is_waiting)
    await second
    assert (connections("used"), connections("idle"), waiting()) == (0, 1, 0)
    assert gauge("db_client_connection_max", db_client_connection_pool_name="gauges") == 1
    await database.close()


async def test_events_that_wait_in_the_outbox_are_counted_without_nats(
    db: Database, kit_admin: "Pool[asyncpg.Record]", origin: Callable[..., Origin]
) -> None:
    async with db.write(origin()) as tx:
        outbox.append(tx, BudgetClosed(budget_id="b", entity_id="e"))
    unpublished = "select count(*), extract(epoch from now() - min(create_time)) from budgets.outbox"
    count, oldest_s = await kit_admin.fetchrow(f"{unpublished} where publish_time is null") or (0, 0)
    await outbox.measure(db)
    assert gauge("billing_outbox_unpublished") == count >= 1
    assert float(oldest_s) <= gauge("billing_outbox_oldest_seconds") < float(oldest_s) + 5


async def test_events_that_a_consumer_has_not_received_are_counted(
    db: Database, jetstream: JetStreamContext, handler: FakeHandler, publish: Publish
) -> None:
    consumer = Consumer(db, "budgets", Handler(f"lag_{uuid4().hex}", BudgetClosed, handler.handle))
    await consumer.measure(jetstream)  # not created yet: no value, no error
    assert REGISTRY.get_sample_value("billing_events_pending", {"consumer": consumer.name}) is None
    config = ConsumerConfig(
        durable_name=consumer.durable,
        filter_subject="billing.budgets.v1.BudgetClosed.*",
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.NEW,
    )
    await jetstream.add_consumer(STREAM, config)
    for _ in range(3):
        await publish()
    await consumer.measure(jetstream)
    assert gauge("billing_events_pending", consumer=consumer.name) == 3
    await jetstream.delete_consumer(STREAM, consumer.durable)


async def test_dead_letters_of_all_tenants_are_counted_by_consumer(db: Database, origin: Callable[..., Origin]) -> None:
    consumer = f"c-{uuid4().hex}"
    names = {"budgets.without_letters"}
    for tenant_id in (uuid4(), uuid4()):
        async with db.write(origin(tenant_id=tenant_id)) as tx:
            tx.add(letter(consumer))
    await measure_dead_letters(db, names)
    assert gauge("billing_dead_letters", consumer=consumer) == 2
    assert gauge("billing_dead_letters", consumer="budgets.without_letters") == 0
    assert consumer in names  # so that the gauge returns to 0 when they are gone


def test_the_version_is_a_label() -> None:
    assert gauge("billing_build_info", version=VERSION) == 1
