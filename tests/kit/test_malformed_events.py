"""Every message is handled, dead-lettered or dropped once; none is redelivered for ever."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import pytest
from billing.budgets.v1.events_pb2 import BudgetClosed
from nats.js import JetStreamContext
from prometheus_client import REGISTRY

from eventing.consumer import Consumer, Handler, error_text
from eventing.subjects import STREAM
from kit.db import Database, WriteSession
from tests.harness.events import headers_of
from tests.harness.observe import eventually
from tests.kit.consumers import FakeHandler, Publish, Results, consuming
from tests.kit.raw_nats import header_block, raw_publisher

TYPE = b"billing.budgets.v1.BudgetClosed"
BODY = b'{"budget_id": "b"}'
HUGE = 900_000

Send = Callable[..., Awaitable[None]]


@pytest.fixture
async def send(nats_url: str, tenant: UUID, jetstream: JetStreamContext) -> AsyncIterator[Send]:
    """Publishes bytes; by default a valid event of this tenant."""

    async def send(*, headers: bytes = b"", body: bytes = BODY, tail: bytes = b"", **changed: bytes | None) -> None:
        valid = {name: value.encode() for name, value in headers_of(BudgetClosed).items()}
        values = valid | {name.replace("_", "-"): value for name, value in changed.items()}
        block = headers or header_block({name: value for name, value in values.items() if value is not None})
        async with raw_publisher(nats_url) as publisher:
            await publisher.publish(TYPE + b"." + (tail or tenant.hex.encode()), block, body)

    yield send
    await jetstream.purge_stream(STREAM, subject=f"{TYPE.decode()}.acme")  # no tenant, so no fixture deletes it


async def ends(consumer: Consumer, jetstream: JetStreamContext) -> None:
    """Wait until the consumer has acknowledged every message: none is delivered again."""

    async def is_idle() -> bool:
        info = await jetstream.consumer_info(STREAM, consumer.durable)
        return (info.num_ack_pending, info.num_pending) == (0, 0)

    await eventually(is_idle)


def rejected(consumer: Consumer) -> float:
    labels = {"consumer": consumer.name, "outcome": "rejected"}
    return REGISTRY.get_sample_value("billing_events_consumed_total", labels) or 0.0


MALFORMED: Mapping[str, Mapping[str, Any]] = {
    "NUL in the actor": {"ce_actor": b"mal\0lory"},
    "an actor that is too long": {"ce_actor": b"m" * 129},
    "an actor that is not UTF-8": {"ce_actor": b"mallory\xff"},
    "a line break in the actor": {"ce_actor": "mal\u2028lory".encode()},
    "an id that is no UUID": {"ce_id": b"7"},
    "no id": {"ce_id": None},
    "no type": {"ce_type": None},
    "another type": {"ce_type": b"billing.budgets.v1.BudgetCreated"},
    "no source": {"ce_source": None},
    "the source of another service": {"ce_source": b"/billing/entities"},
    "the source of an outside system": {"ce_source": b"/platform/usage"},
    "no headers": {"headers": b"NATS/1.0\r\n\r\n"},
    "headers without names": {"headers": b"NATS/1.0\r\n: \r\n:::\r\n\r\n"},
    "a tenant that is no UUID": {"tail": b"acme"},
    "a status of the server": {"headers": b"NATS/1.0 503\r\n\r\n"},
    "a status that is not UTF-8": {"headers": b"NATS/1.0 \xff\xff\xff\r\n\r\n"},
    "a status and headers": {"headers": b"NATS/1.0 404 No Messages\r\nce-id: 1\r\n\r\n"},
    "a header named Status": {"Status": b"409"},
    "a body that is not UTF-8": {"body": b"\xff\xfe"},
    "NUL in the body": {"body": b'{"budget_id": "\0"}'},
}
"""Messages that the consumer drops."""


class TestMalformedEvents:
    @pytest.mark.parametrize("case", MALFORMED)
    async def test_it_is_dropped_with_one_log_line(
        self, case: str, consumer: Consumer, send: Send, publish: Publish, results: Results,
        jetstream: JetStreamContext, logs: list[dict[str, Any]], handler: FakeHandler,
    ) -> None:  # fmt: skip
        before = rejected(consumer)
        await send(**MALFORMED[case])
        await publish("after")
        assert await eventually(results.effects) == ["effect of after"]
        await ends(consumer, jetstream)
        assert rejected(consumer) == before + 1
        lines = [line for line in logs if line.get("consumer") == consumer.name and line["level"] == "error"]
        assert [line["event"] for line in lines] == ["invalid event dropped"]
        assert (handler.tries, await results.dead_letters()) == (1, [])

    async def test_a_tenant_that_is_not_utf8_neither_stops_nor_delays_the_consumer(
        self, consumer: Consumer, send: Send, publish: Publish, results: Results, jetstream: JetStreamContext
    ) -> None:
        for _ in range(20):
            await send(tail=b"\xff\xfe")
        await publish("after")
        assert await eventually(results.effects) == ["effect of after"]
        await ends(consumer, jetstream)
        assert rejected(consumer) >= 20

    @pytest.mark.parametrize(
        "traceparent", [b"", b"00-0-0-01", b"\0", b"\xff", b"9" * 5000, b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"]
    )
    async def test_an_invalid_trace_starts_a_new_one(
        self, traceparent: bytes, consumer: Consumer, send: Send, results: Results, handler: FakeHandler
    ) -> None:
        handler.failing = RuntimeError("broken")
        await send(traceparent=traceparent)
        (letter,) = await eventually(results.dead_letters)
        assert letter["traceparent"] == ""
        assert consumer.name == letter["consumer"]

    @pytest.mark.parametrize("time", [b"0001-01-01T00:00:00+14:00", b"9999-12-31T23:59:59-14:00", b"\xff", b"1" * 5000])
    async def test_an_absurd_time_is_accepted(
        self, time: bytes, consumer: Consumer, send: Send, results: Results, jetstream: JetStreamContext
    ) -> None:
        await send(ce_time=time)
        assert await eventually(results.effects) == ["effect of b"]
        await ends(consumer, jetstream)

    @pytest.mark.parametrize(
        "body",
        [b"[" * 100_000, b"x" * HUGE, b'{"budget_id": "\\ud800"}', b'{"budget_id": 1e999}', b"9" * 5000, b"null"],
        ids=["nested", "huge", "lone surrogate", "infinite", "long number", "null"],
    )
    async def test_a_body_that_can_not_be_parsed_is_dead_lettered(
        self, body: bytes, consumer: Consumer, send: Send, results: Results, jetstream: JetStreamContext
    ) -> None:
        await send(body=body)
        (letter,) = await eventually(results.dead_letters, within_s=30)
        assert letter["body"].encode() == body
        await ends(consumer, jetstream)

    async def test_an_event_whose_dead_letter_can_not_have_its_effect_ends(
        self, db: Database, jetstream: JetStreamContext, send: Send, results: Results,
        monkeypatch: pytest.MonkeyPatch, tenant: UUID,
    ) -> None:  # fmt: skip
        """NUL in a field: neither the handler nor the notification can store it."""
        monkeypatch.setattr(Consumer, "retry_delays_s", (0.01,))

        async def store(tx: WriteSession, event: BudgetClosed) -> None:
            if tx.tenant_id == tenant:
                await tx.fetch("select $1::text", event.budget_id)

        consumer = Consumer(db, "budgets", Handler(f"nul_{tenant.hex}", BudgetClosed, store, dead_lettered=store))
        async with consuming(consumer, jetstream):
            await send(body=b'{"budget_id": "\\u0000"}')
            (letter,) = await eventually(results.dead_letters)
            await ends(consumer, jetstream)
        assert "\\u0000" in letter["body"]

    def test_every_error_can_be_stored_as_text(self) -> None:
        class Broken(Exception):
            def __repr__(self) -> str:
                return "a\0b\ud800"

        assert error_text(Broken()) == "ab\\ud800"


async def test_random_headers_never_stop_a_consumer(
    consumer: Consumer, send: Send, publish: Publish, results: Results, jetstream: JetStreamContext
) -> None:
    """Seeded; each message is a valid one with random bytes in its header block."""
    chance = random.Random(20261128)  # noqa: S311 - no secret
    valid = header_block({name: value.encode() for name, value in headers_of(BudgetClosed).items()})
    for _ in range(150):
        block = bytearray(valid)
        for _ in range(chance.randint(1, 6)):
            position = chance.randrange(8, len(block) - 4)
            block[position : position + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 4))
        await send(headers=bytes(block))
    await publish("after")

    async def has_effect() -> bool:
        return "effect of after" in await results.effects()

    await eventually(has_effect, within_s=30)
    await ends(consumer, jetstream)
