"""The usage simulator: as many records as it is told to, at the rate, with bad ones and duplicates where wanted."""

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
from tests.harness.observe import PublishedEvents


async def test_it_says_so_many_records_each_in_the_form_that_consumers_take(
    jetstream: JetStreamContext, told: PublishedEvents, tenant: UUID
) -> None:
    said = await usage.say(jetstream, tenant, Plan(count=30, rate=0))
    events = await told.at_least(30, UsageRecorded)
    assert (said.events, said.duplicates, said.bad, len(events)) == (30, 0, 0, 30)
    assert len({event.record_id for event in events}) == 30
    for event, message in zip(events, told.messages, strict=True):
        validation.check(event)
        assert message.headers is not None
        assert message.headers["ce-source"] == "/platform/usage"
        body = json.loads(message.data)
        assert body["record_id"] == event.record_id, "the names are those of the proto"
        UUID(message.headers["ce-id"])


async def test_duplicates_are_the_same_record_in_an_event_of_its_own(
    jetstream: JetStreamContext, told: PublishedEvents, tenant: UUID
) -> None:
    said = await usage.say(jetstream, tenant, Plan(count=40, rate=0, duplicates=25))
    events = await told.at_least(said.events, UsageRecorded)
    assert said.duplicates > 0
    assert len({event.record_id for event in events}) == 40 == said.events - said.duplicates
    assert len({(message.headers or {})["ce-id"] for message in told.messages}) == said.events


async def test_bad_records_are_as_many_as_it_says(
    jetstream: JetStreamContext, told: PublishedEvents, tenant: UUID
) -> None:
    said = await usage.say(jetstream, tenant, Plan(count=60, rate=0, bad=30))
    events = await told.at_least(60, UsageRecorded)
    spoilt = [event for event in events if event.entity_code == "NOBODY" or event.amount.amount == "0.00"]
    assert {event.entity_code == "NOBODY" for event in spoilt} == {True, False}, "of both kinds"
    assert said.bad == len(spoilt) > 0


async def test_it_keeps_to_the_rate(jetstream: JetStreamContext, tenant: UUID) -> None:
    said = await usage.say(jetstream, tenant, Plan(count=30, rate=100))
    assert 0.28 <= said.seconds < 1.5  # timers may be a little early


def test_the_same_plan_is_the_same_records() -> None:
    plan = Plan(count=20, rate=0, duplicates=10, bad=10, run="r-")
    assert list(records(plan)) == list(records(plan))
    assert [record.record_id for record, *_ in records(plan)][:2] == ["r-1-0", "r-1-1"]


class TestProto:
    def test_a_record_without_entity_or_with_two_is_refused(self) -> None:
        record, _, _ = next(iter(records(Plan(count=1, rate=0))))
        record.usage_time.GetCurrentTime()
        validation.check(record)
        for entity_id, entity_code in (("", ""), ("ent_" + "0" * 32, "ACME")):
            record.entity_id, record.entity_code = entity_id, entity_code
            with pytest.raises(InvalidFields, match="entity_code"):
                validation.check(record)


async def test_a_time_that_nobody_understands_loses_no_event(jetstream: JetStreamContext, tenant: UUID) -> None:
    """Outside systems get their clocks' form wrong; the event is what counts."""
    subject = f"platform.usage.v1.UsageRecorded.{tenant.hex}"
    subscription = await jetstream.pull_subscribe(subject, durable=f"test_{tenant.hex}")
    id = "0195f3f0-0000-7000-8000-000000000001"
    for time in ("yesterday", "2026-10-01T12:00:00", "2026-10-01T12:00:00Z"):
        headers = {"ce-id": id, "ce-time": time, "ce-source": "/platform/usage"}
        await jetstream.publish(subject, b"{}", headers=headers)
    deliveries = [Delivery.from_message(message) for message in await subscription.fetch(3, timeout=5)]
    assert [delivery.event_time is not None for delivery in deliveries] == [False, False, True]
    assert {delivery.actor for delivery in deliveries} == {"/platform/usage"}, "who says it did it"
