"""Dead letters: listed and redriven by operators."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from billing.operations.v1.operations_service_pb2 import (
    DropDeadLetterRequest,
    GetVersionRequest,
    ListDeadLettersRequest,
    RedriveDeadLetterRequest,
)
from billing.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from grpc import StatusCode, aio

from eventing.consumer import Consumer
from kit.db import Database
from kit.errors import FailedPrecondition
from kit.settings import Settings
from serving.calls import CallPipeline
from serving.operations import OperationsServicer
from serving.pages import Pages
from tests.harness.callers import Caller, refusal
from tests.harness.observe import eventually
from tests.kit.conftest import NoScopes
from tests.kit.consumers import FakeHandler, Publish, Results


class TooEarly(FailedPrecondition):
    reason = "TOO_EARLY"


@pytest.fixture
async def operations(
    db: Database, consumer: Consumer, kit_settings: Callable[..., Settings]
) -> AsyncIterator[OperationsServiceStub]:
    settings = kit_settings()
    server = aio.server()
    servicer = OperationsServicer("budgets", db, Pages(settings), [consumer])
    server.add_generic_rpc_handlers([CallPipeline(settings, NoScopes()).handler_for(servicer)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield OperationsServiceStub(channel)
    await server.stop(None)


class TestDeadLetters:
    @pytest.fixture
    async def letter(
        self, handler: FakeHandler, publish: Publish, results: Results, consumer: Consumer
    ) -> asyncpg.Record:
        handler.failing = RuntimeError("broken")
        await publish()
        return (await eventually(results.dead_letters))[0]

    @pytest.fixture
    def operator(self, caller: Callable[..., Caller]) -> Caller:
        return caller("billing_admin")

    async def test_dead_letters_are_listed(
        self, operations: OperationsServiceStub, operator: Caller, letter: asyncpg.Record, consumer: Consumer
    ) -> None:
        listed = await operator.call(operations.ListDeadLetters, ListDeadLettersRequest())
        (found,) = listed.dead_letters
        assert (found.event_id, found.consumer, found.deliveries) == (
            str(letter["event_id"]),
            consumer.name,
            5,
        )
        assert (found.body, found.subject, found.error) == (
            letter["body"],
            letter["subject"],
            letter["error"],
        )
        assert abs(found.create_time.seconds - time.time()) < 60

    async def test_a_redriven_event_has_its_effect_and_is_deleted(
        self, operations: OperationsServiceStub, operator: Caller, letter: asyncpg.Record, handler: FakeHandler,
        results: Results,
    ) -> None:  # fmt: skip
        handler.failing = None
        request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        assert (await operator.call(operations.RedriveDeadLetter, request)).event_id == str(letter["event_id"])
        assert await results.effects() == ["effect of b"]
        assert await results.dead_letters() == []
        repeated = await refusal(operator.call(operations.RedriveDeadLetter, request))
        assert (repeated.code, repeated.reason) == (StatusCode.NOT_FOUND, "DEAD_LETTER_NOT_FOUND")
        assert await results.effects() == ["effect of b"]

    async def test_a_redrive_that_fails_stores_and_returns_the_new_error(
        self, operations: OperationsServiceStub, operator: Caller, letter: asyncpg.Record, handler: FakeHandler,
        results: Results,
    ) -> None:  # fmt: skip
        handler.failing = TooEarly("It is too early.")
        request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        assert (await refusal(operator.call(operations.RedriveDeadLetter, request))).reason == "TOO_EARLY"
        (stored,) = await results.dead_letters()
        assert "too early" in stored["error"]
        assert await results.effects() == []

    async def test_other_tenants_can_neither_list_nor_redrive_it(
        self,
        operations: OperationsServiceStub,
        letter: asyncpg.Record,
        caller: Callable[..., Caller],
        handler: FakeHandler,
    ) -> None:
        handler.failing = None
        other_tenant = caller("billing_admin", tenant=uuid4())
        assert not (await other_tenant.call(operations.ListDeadLetters, ListDeadLettersRequest())).dead_letters
        request = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        refused = await refusal(other_tenant.call(operations.RedriveDeadLetter, request))
        unknown = RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(uuid4()))
        assert refused == await refusal(other_tenant.call(operations.RedriveDeadLetter, unknown))

    async def test_a_dropped_dead_letter_has_no_effect(
        self, operations: OperationsServiceStub, operator: Caller, letter: asyncpg.Record, handler: FakeHandler,
        results: Results, caller: Callable[..., Caller],
    ) -> None:  # fmt: skip
        handler.failing = None
        request = DropDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"]))
        other_tenant = caller("billing_admin", tenant=uuid4())
        assert (await refusal(other_tenant.call(operations.DropDeadLetter, request))).reason == "DEAD_LETTER_NOT_FOUND"
        assert (
            await refusal(caller("finance").call(operations.DropDeadLetter, request))
        ).reason == "PERMISSION_MISSING"
        assert (await operator.call(operations.DropDeadLetter, request)).event_id == str(letter["event_id"])
        assert (await results.effects(), await results.dead_letters()) == ([], [])
        assert (await refusal(operator.call(operations.DropDeadLetter, request))).reason == "DEAD_LETTER_NOT_FOUND"

    async def test_operators_only(
        self, operations: OperationsServiceStub, caller: Callable[..., Caller], letter: asyncpg.Record
    ) -> None:
        for role in ("finance", "auditor", "viewer"):
            calls: list[Any] = [
                caller(role).call(operations.ListDeadLetters, ListDeadLettersRequest()),
                caller(role).call(
                    operations.RedriveDeadLetter,
                    RedriveDeadLetterRequest(consumer=letter["consumer"], event_id=str(letter["event_id"])),
                ),
            ]
            for call in calls:
                assert (await refusal(call)).reason == "PERMISSION_MISSING"

    async def test_version(self, operations: OperationsServiceStub, operator: Caller) -> None:
        version = await operator.call(operations.GetVersion, GetVersionRequest())
        assert (version.service, version.version) == ("budgets", "0.1.0")
