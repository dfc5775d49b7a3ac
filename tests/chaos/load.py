"""Callers that charge, hold, release and refund under faults, and retry until each request has a definite reply."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Self
from uuid import UUID

import grpc
from billing.budgets.v1 import charge_pb2
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.hold_pb2 import Hold
from billing.budgets.v1.ledger_service_pb2_grpc import LedgerServiceStub
from billing.type.v1.money_pb2 import Money
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode, aio

from kit import ids
from tests.chaos.record import Link, Rejection, Result, SentRequest, cents
from tests.chaos.stage import CHANNEL, ChaosStack
from tests.harness.callers import Refusal

_TIMEOUT_S: Final = 5.0
_ATTEMPTS: Final = 1_000
"""Attempts per request; they last more than a minute, longer than any outage of a run."""
_DEFINITE: Final = {
    StatusCode.FAILED_PRECONDITION, StatusCode.NOT_FOUND, StatusCode.ALREADY_EXISTS, StatusCode.INVALID_ARGUMENT,
    StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED, StatusCode.UNIMPLEMENTED,
}  # fmt: skip
_KINDS: Final = {
    "charge": 44, "batch": 5, "hold": 16, "commit": 7, "capture": 9, "release": 6, "refund": 13,
}  # fmt: skip
_AMOUNT_MAX: Final = 20_00
_BATCH: Final = 8
_DUPLICATED: Final = 0.03
"""Share of requests that are sent to both replicas concurrently."""
_REPEATED: Final = 0.03
"""Share of requests that are repeated after their reply."""
_EXPIRING: Final = 0.1
_POOL_SIZE: Final = 200
_NUMBERS: Final = {"requested", "available", "short"}


def money(amount: int) -> Money:
    """Return an amount of cents in EUR."""
    return Money(currency_code="EUR", amount=f"{amount // 100}.{amount % 100:02}")


@dataclass(slots=True, kw_only=True)
class Load:
    """The callers of a run, their requests and replies."""

    stack: ChaosStack
    budgets: Sequence[UUID]
    seed: int
    operations: int
    expiring: bool = True
    """Create some holds with an expiry."""
    sent: list[SentRequest] = field(default_factory=list)
    started_count: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    """Replies that are not definite, by code and reason."""
    differing: list[str] = field(default_factory=list)
    """Requests with two different replies."""
    _stubs: list[LedgerServiceStub] = field(default_factory=list)
    _channels: list[aio.Channel] = field(default_factory=list)
    _metadata: Any = ()
    _holds: list[tuple[UUID, UUID]] = field(default_factory=list)
    _charges: list[tuple[UUID, UUID, int]] = field(default_factory=list)
    _milestones: dict[int, asyncio.Event] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self._metadata = self.stack.metadata
        self._channels = [aio.insecure_channel(one.address, options=CHANNEL) for one in self.stack.replicas]
        self._stubs = [LedgerServiceStub(channel) for channel in self._channels]
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def run(self, callers: int) -> None:
        """Run this many concurrent callers until all operations are done."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(self._caller(Random(f"{self.seed}-{number}"), number))  # noqa: S311 - chaos by seed

    async def wait_for(self, operations: int) -> None:
        """Wait until this many operations have started."""
        if self.started_count < operations:
            await self._milestones.setdefault(operations, asyncio.Event()).wait()

    async def repeat_all(self, callers: int) -> int:
        """Repeat all accepted requests, charges in batches; return their number."""
        reply_time = [sent for sent in self.sent if sent.reply]
        charges = [sent for sent in reply_time if sent.method == "Charge"]
        batches = [charges[at : at + 500] for at in range(0, len(charges), 500)]
        work: list[Callable[[], Awaitable[None]]] = [lambda one=one: self._repeat_charges(one) for one in batches]  # type: ignore[misc]
        work += [lambda one=one: self._repeat(one) for one in reply_time if one.method != "Charge"]  # type: ignore[misc]
        todo = iter(work)

        async def caller() -> None:
            for one in todo:
                await one()

        await asyncio.gather(*(caller() for _ in range(callers)))
        return len(reply_time)

    async def _repeat_charges(self, charges: Sequence[SentRequest]) -> None:
        request = pb.BatchChargeRequest(charges=[sent.request for sent in charges])
        reply = await self._call_until_definite("BatchCharge", request, 0)
        if isinstance(reply, Refusal):
            self.differing += [f"{sent.key}: {reply.reason}" for sent in charges]
            return
        for sent, result in zip(charges, reply.results, strict=True):
            if not result.replayed or result.charge != charge_pb2.Charge.FromString(sent.reply):
                self.differing.append(f"Charge {sent.key}: {result}")

    async def _repeat(self, sent: SentRequest) -> None:
        reply = await self._call_until_definite(sent.method, sent.request, 0)
        if isinstance(reply, Refusal) or reply.SerializeToString() != sent.reply:
            self.differing.append(f"{sent.method} {sent.key}: {reply}")

    async def _caller(self, random: Random, number: int) -> None:
        while self.started_count < self.operations:
            self.started_count += 1
            if milestone := self._milestones.get(self.started_count):
                milestone.set()
            (kind,) = random.choices(list(_KINDS), list(_KINDS.values()))
            key = f"{number}-{self.started_count}"
            if kind == "batch":
                await self._send_batch(random, key)
            else:
                await self._send_one(random, self._random_request(random, kind, key))
            self.kinds[kind] += 1

    async def _send_one(self, random: Random, sent: SentRequest) -> None:
        self.sent.append(sent)
        first = random.randrange(len(self._stubs))
        fate = random.random()
        if fate < _DUPLICATED:
            await asyncio.gather(self._send(sent, first), self._send(sent, first + 1))
            return
        await self._send(sent, first)
        if fate < _DUPLICATED + _REPEATED:
            await self._send(sent, first + 1)

    async def _send(self, sent: SentRequest, first: int) -> None:
        """Send the request until there is a definite reply, and store it."""
        start_time = time.time()
        reply = await self._call_until_definite(sent.method, sent.request, first)
        if isinstance(reply, Refusal):
            sent.rejections.append(_rejection(reply.reason, reply.metadata, start_time))
        else:
            self._store_reply(sent, reply)

    async def _send_batch(self, random: Random, key: str) -> None:
        requests = [
            self._random_request(random, "charge", f"{key}-{sent}") for sent in range(random.randint(2, _BATCH))
        ]
        self.sent += requests
        atomic = random.random() < 0.5
        request = pb.BatchChargeRequest(charges=[sent.request for sent in requests], atomic=atomic)
        start_time = time.time()
        reply = await self._call_until_definite("BatchCharge", request, random.randrange(len(self._stubs)))
        if isinstance(reply, Refusal):
            self._store_batch_rejection(requests, reply, start_time)
            return
        for sent, result in zip(requests, reply.results, strict=True):
            if result.HasField("charge"):
                self._store_reply(sent, result.charge)
            else:
                sent.rejections.append(_rejection(result.refusal.reason, result.refusal.metadata, start_time))

    @staticmethod
    def _store_batch_rejection(requests: Sequence[SentRequest], refusal: Refusal, start_time: float) -> None:
        place = int(refusal.metadata.get("line", "charges[0]").removeprefix("charges[").removesuffix("]"))
        for index, sent in enumerate(requests):
            reason = refusal.metadata.get("line_reason", refusal.reason) if index == place else refusal.reason
            sent.rejections.append(_rejection(reason, refusal.metadata, start_time))
        requests[place].rejections[-1].earlier_in_batch = [(sent.budget, sent.amount or 0) for sent in requests[:place]]

    async def _call_until_definite(self, method: str, request: Message, first: int) -> Any:
        """Return the reply or a definite rejection; other errors are retried with the same key."""
        for turn in range(first, first + _ATTEMPTS):
            rpc = getattr(self._stubs[turn % len(self._stubs)], method)
            try:
                return await rpc(request, metadata=self._metadata, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                refusal = Refusal.of(error)
            if refusal.code in _DEFINITE:
                return refusal
            self.retries[f"{refusal.code.name} {refusal.reason}".strip()] += 1
            await asyncio.sleep(0.02 * (1 + turn % 5))
        return refusal

    def _store_reply(self, sent: SentRequest, reply: Any) -> None:
        content = reply.SerializeToString()
        if sent.reply:
            if sent.reply != content:
                self.differing.append(f"{sent.method} {sent.key}")
            return
        sent.reply, sent.result, sent.reply_time = content, _result_of(sent.method, reply), time.time()
        if sent.method == "CreateHold" and sent.result.hold:
            _add_to_pool(self._holds, (sent.budget, sent.result.hold))
        elif sent.method in {"Charge", "CaptureHold"}:
            _add_to_pool(self._charges, (sent.budget, sent.result.entry, sent.amount or 1))

    def _random_request(self, random: Random, kind: str, key: str) -> SentRequest:
        """Return a random request of a kind; a charge if there is no hold or charge to refer to yet."""
        if kind in {"commit", "capture", "release"} and self._holds:
            return self._of_hold(random, kind, key, *random.choice(self._holds))
        if kind == "refund" and self._charges:
            budget, charge, amount = random.choice(self._charges)
            part = None if random.random() < 0.4 else random.randint(1, amount)
            sent = SentRequest(method="RefundCharge", key=key, budget=budget, charge=charge, amount=part)
            sent.request = pb.RefundChargeRequest(
                id=ids.BUDGET.format(budget), charge_id=ids.ENTRY.format(charge), request_id=key
            )
            return _with_amount(sent)
        budget, amount = random.choice(self.budgets), random.randint(1, _AMOUNT_MAX)
        if kind == "hold":
            sent = SentRequest(method="CreateHold", key=key, budget=budget, amount=amount)
            sent.request = pb.CreateHoldRequest(id=ids.BUDGET.format(budget), request_id=key)
            if self.expiring and random.random() < _EXPIRING:
                sent.request.expire_time.CopyFrom(Timestamp(seconds=int(time.time()) + random.randint(15, 30)))
            return _with_amount(sent)
        sent = SentRequest(method="Charge", key=key, budget=budget, amount=amount)
        sent.request = pb.ChargeRequest(id=ids.BUDGET.format(budget), request_id=key)
        return _with_amount(sent)

    @staticmethod
    def _of_hold(random: Random, kind: str, key: str, budget: UUID, hold: UUID) -> SentRequest:
        names = {"id": ids.BUDGET.format(budget), "hold_id": ids.HOLD.format(hold), "request_id": key}
        part = None if kind == "commit" or random.random() < 0.4 else random.randint(1, _AMOUNT_MAX // 2)
        method = {"commit": "CommitHold", "capture": "CaptureHold", "release": "ReleaseHold"}[kind]
        sent = SentRequest(method=method, key=key, budget=budget, hold=hold, amount=part)
        sent.request = getattr(pb, f"{method}Request")(**names)
        if kind == "capture":
            sent.request.release_rest = random.random() < 0.3
        return _with_amount(sent)


def _with_amount(sent: SentRequest) -> SentRequest:
    if sent.amount is not None:
        sent.request.amount.CopyFrom(money(sent.amount))
    return sent


def _add_to_pool(pool: list[Any], one: Any) -> None:
    pool.append(one)
    if len(pool) > _POOL_SIZE:
        del pool[0]


def _rejection(reason: str, metadata: Any, start_time: float) -> Rejection:
    numbers = {name: str(cents(value)) if name in _NUMBERS else value for name, value in metadata.items()}
    return Rejection(reason=reason, numbers=numbers, start_time=start_time, end_time=time.time())


def _result_of(method: str, reply: Any) -> Result:
    if isinstance(reply, Hold):
        amount, captured, released = (cents(part.amount) for part in (reply.amount, reply.captured, reply.released))
        return Result(
            entry=ids.ENTRY.parse(reply.last_entry_id),
            hold=ids.HOLD.parse(reply.id),
            hold_numbers=(amount, captured, released, Hold.State.Name(reply.state)),
        )
    chain = [
        Link(ids.BUDGET.parse(link.budget_id), cents(link.available_before.amount), cents(link.available_after.amount))
        for link in reply.chain
    ]
    refundable = cents(reply.refundable.amount) if method == "RefundCharge" else None
    entry, amount = ids.ENTRY.parse(reply.id), cents(reply.amount.amount)
    return Result(entry=entry, amount=amount, chain=chain, refundable=refundable)
