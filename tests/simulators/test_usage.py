"""The usage simulator: number of records, rate, duplicates and bad records."""

import json
from uuid import UUID

import pytest
from nats.js import JetStreamContext
from outside.usage.v1.usage_pb2 import UsageRecorded

from contract import validation
from deploy.simulators import usage
from deploy.simulators.usage import Plan, records
from eventing.consumer import Delivery
from kit.errors import InvalidFields
from tests.harness.events import headers_of
from tests.harness.observe import PublishedEvents


async def test_records_are_published_in_the_form_of_the_proto(
    jetstream: JetStreamContext, outside_events: PublishedEvents, tenant: UUID
) -> None:
    published = await usage.publish_all(jetstream, tenant, Plan(count=30, rate=0))
    events = await outside_events.at_least(30, UsageRecorded)
    assert (published.events, published.duplicates, published.bad, len(events)) == (30, 0, 0, 30)
    assert len({event.record_id for event in events}) == 30
    for event, message in zip(events, outside_events.messages, strict=True):
        validation.check(event)
        assert message.headers is not None
        assert message.headers["ce-source"] == "/platform/usage"
        body = json.loads(message.data)
        assert body["record_id"] == event.record_id, "JSON has the field names of the proto"
        UUID(message.headers["ce-id"])


async def test_duplicate_is_the_same_record_in_another_event(
    jetstream: JetStreamContext, outside_events: PublishedEvents, tenant: UUID
) -> None:
    published = await usage.publish_all(jetstream, tenant, Plan(count=40, rate=0, duplicates=25))
    events = await outside_events.at_least(published.events, UsageRecorded)
    assert published.duplicates > 0
    assert len({event.record_id for event in events}) == 40 == published.events - published.duplicates
    assert len({(message.headers or {})["ce-id"] for message in outside_events.messages}) == published.events


async def test_bad_records_are_counted(
    jetstream: JetStreamContext, outside_events: PublishedEvents, tenant: UUID
) -> None:
    published = await usage.publish_all(jetstream, tenant, Plan(count=60, rate=0, bad=30))
    events = await outside_events.at_least(60, UsageRecorded)
    bad = [event for event in events if event.entity_code == "NOBODY" or event.amount.amount == "0.00"]
    assert {event.entity_code == "NOBODY" for event in bad} == {True, False}, "unknown entities and zero amounts"
    assert published.bad == len(bad) > 0


async def test_rate_is_kept(jetstream: JetStreamContext, tenant: UUID) -> None:
    published = await usage.publish_all(jetstream, tenant, Plan(count=30, rate=100))
    assert 0.28 <= published.seconds < 1.5  # timers may fire a little early


def test_same_plan_gives_the_same_records() -> None:
    plan = Plan(count=20, rate=0, duplicates=10, bad=10, run="r-")
    assert list(records(plan)) == list(records(plan))
    assert [record.record_id for record, *_ in records(plan)][:2] == ["r-1-0", "r-1-1"]


class TestProto:
    def test_record_needs_exactly_one_entity(self) -> None:
        record, _, _ = next(iter(records(Plan(count=1, rate=0))))
        record.usage_time.GetCurrentTime()
        validation.check(record)
        for entity_id, entity_code in (("", ""), ("ent_" + "0" * 32, "ACME")):
            record.entity_id, record.entity_code = entity_id, entity_code
            with pytest.raises(InvalidFields, match="entity_code"):
                validation.check(record)


async def test_event_with_an_invalid_time_is_delivered(jetstream: JetStreamContext, tenant: UUID) -> None:
    subject = f"platform.usage.v1.UsageRecorded.{tenant.hex}"
    subscription = await jetstream.pull_subscribe(subject, durable=f"test_{tenant.hex}")
    for time in ("yesterday", "2026-10-01T12:00:00", "2026-10-01T12:00:00Z"):
        await jetstream.publish(subject, b"{}", headers=headers_of(UsageRecorded, ce_time=time))
    messages = await subscription.fetch(3, timeout=5)
    deliveries = [Delivery.from_message(message, UsageRecorded) for message in messages]
    assert [delivery.event_time is not None for delivery in deliveries] == [False, False, True]
    assert {delivery.actor for delivery in deliveries} == {"/platform/usage"}
