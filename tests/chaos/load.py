"""Callers that charge, hold and give back under faults, and do not rest before every request has its answer."""

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
from tests.chaos.record import Asked, Denied, Link, Told, cents
from tests.chaos.stage import CHANNEL, Stage
from tests.harness.callers import Refusal

_WITHIN_S: Final = 5.0
_TRIES: Final = 1_000
"""So often nobody is sent away who is served at all: it takes a minute and more."""
_DEFINITE: Final = {
    StatusCode.FAILED_PRECONDITION, StatusCode.NOT_FOUND, StatusCode.ALREADY_EXISTS, StatusCode.INVALID_ARGUMENT,
    StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED, StatusCode.UNIMPLEMENTED,
}  # fmt: skip
_KINDS: Final = {
    "charge": 44, "batch": 5, "hold": 16, "commit": 7, "capture": 9, "release": 6, "refund": 13,
}  # fmt: skip
_LARGEST: Final = 20_00
_BATCH: Final = 8
_TWINS: Final = 0.03
"""Share of requests that are sent to both replicas at once."""
_AGAIN: Final = 0.03
"""Share of requests that are sent once more when they were answered."""
_EXPIRING: Final = 0.1
_REMEMBERED: Final = 200
_NUMBERS: Final = {"requested", "available", "short"}


def money(amount: int) -> Money:
    """So many cents."""
    return Money(currency_code="EUR", amount=f"{amount // 100}.{amount % 100:02}")


@dataclass(slots=True, kw_only=True)
class Load:
    """The callers of a run and what they were told."""

    stage: Stage
    budgets: Sequence[UUID]
    seed: int
    operations: int
    expiring: bool = True
    """Whether some holds are made to expire."""
    asked: list[Asked] = field(default_factory=list)
    begun: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    """Answers that are none, by code and reason."""
    differing: list[str] = field(default_factory=list)
    """Requests that were answered twice, and not the same."""
    _stubs: list[LedgerServiceStub] = field(default_factory=list)
    _channels: list[aio.Channel] = field(default_factory=list)
    _metadata: Any = ()
    _holds: list[tuple[UUID, UUID]] = field(default_factory=list)
    _charges: list[tuple[UUID, UUID, int]] = field(default_factory=list)
    _milestones: dict[int, asyncio.Event] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self._metadata = self.stage.metadata
        self._channels = [aio.insecure_channel(one.address, options=CHANNEL) for one in self.stage.replicas]
        self._stubs = [LedgerServiceStub(channel) for channel in self._channels]
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def run(self, callers: int) -> None:
        """So many callers at once, until all operations are done."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(self._caller(Random(f"{self.seed}-{number}"), number))  # noqa: S311 - chaos by seed

    async def reached(self, operations: int) -> None:
        """Wait until so many have begun."""
        if self.begun < operations:
            await self._milestones.setdefault(operations, asyncio.Event()).wait()

    async def repeat_all(self, callers: int) -> int:
        """Send everything that was answered once more, charges in batches; gives how many that were."""
        answered = [asked for asked in self.asked if asked.reply]
        charges = [asked for asked in answered if asked.method == "Charge"]
        batches = [charges[at : at + 500] for at in range(0, len(charges), 500)]
        work: list[Callable[[], Awaitable[None]]] = [lambda one=one: self._repeat_charges(one) for one in batches]  # type: ignore[misc]
        work += [lambda one=one: self._repeat(one) for one in answered if one.method != "Charge"]  # type: ignore[misc]
        todo = iter(work)

        async def caller() -> None:
            for one in todo:
                await one()

        await asyncio.gather(*(caller() for _ in range(callers)))
        return len(answered)

    async def _repeat_charges(self, charges: Sequence[Asked]) -> None:
        request = pb.BatchChargeRequest(charges=[asked.request for asked in charges])
        reply = await self._answered("BatchCharge", request, 0)
        if isinstance(reply, Refusal):
            self.differing += [f"{asked.key}: {reply.reason}" for asked in charges]
            return
        for asked, result in zip(charges, reply.results, strict=True):
            if not result.replayed or result.charge != charge_pb2.Charge.FromString(asked.reply):
                self.differing.append(f"Charge {asked.key}: {result}")

    async def _repeat(self, asked: Asked) -> None:
        reply = await self._answered(asked.method, asked.request, 0)
        if isinstance(reply, Refusal) or reply.SerializeToString() != asked.reply:
            self.differing.append(f"{asked.method} {asked.key}: {reply}")

    async def _caller(self, random: Random, number: int) -> None:
        while self.begun < self.operations:
            self.begun += 1
            if milestone := self._milestones.get(self.begun):
                milestone.set()
            (kind,) = random.choices(list(_KINDS), list(_KINDS.values()))
            key = f"{number}-{self.begun}"
            if kind == "batch":
                await self._batch(random, key)
            else:
                await self._one(random, self._drawn(random, kind, key))
            self.kinds[kind] += 1

    async def _one(self, random: Random, asked: Asked) -> None:
        self.asked.append(asked)
        first = random.randrange(len(self._stubs))
        fate = random.random()
        if fate < _TWINS:
            await asyncio.gather(self._settle(asked, first), self._settle(asked, first + 1))
            return
        await self._settle(asked, first)
        if fate < _TWINS + _AGAIN:
            await self._settle(asked, first + 1)

    async def _settle(self, asked: Asked, first: int) -> None:
        """Send it until it has an answer, and take down what that is."""
        began = time.time()
        reply = await self._answered(asked.method, asked.request, first)
        if isinstance(reply, Refusal):
            asked.denials.append(_denied(reply.reason, reply.metadata, began))
        else:
            self._take(asked, reply)

    async def _batch(self, random: Random, key: str) -> None:
        lines = [self._drawn(random, "charge", f"{key}-{line}") for line in range(random.randint(2, _BATCH))]
        self.asked += lines
        atomic = random.random() < 0.5
        request = pb.BatchChargeRequest(charges=[line.request for line in lines], atomic=atomic)
        began = time.time()
        reply = await self._answered("BatchCharge", request, random.randrange(len(self._stubs)))
        if isinstance(reply, Refusal):
            self._refuse_batch(lines, reply, began)
            return
        for line, result in zip(lines, reply.results, strict=True):
            if result.HasField("charge"):
                self._take(line, result.charge)
            else:
                line.denials.append(_denied(result.refusal.reason, result.refusal.metadata, began))

    @staticmethod
    def _refuse_batch(lines: Sequence[Asked], refusal: Refusal, began: float) -> None:
        place = int(refusal.metadata.get("line", "charges[0]").removeprefix("charges[").removesuffix("]"))
        for index, line in enumerate(lines):
            reason = refusal.metadata.get("line_reason", refusal.reason) if index == place else refusal.reason
            line.denials.append(_denied(reason, refusal.metadata, began))
        lines[place].denials[-1].together = [(line.budget, line.amount or 0) for line in lines[:place]]

    async def _answered(self, method: str, request: Message, first: int) -> Any:
        """The reply or a refusal that is definite; whatever else comes, it is sent again with its key."""
        for turn in range(first, first + _TRIES):
            rpc = getattr(self._stubs[turn % len(self._stubs)], method)
            try:
                return await rpc(request, metadata=self._metadata, timeout=_WITHIN_S)
            except grpc.aio.AioRpcError as error:
                refusal = Refusal.of(error)
            if refusal.code in _DEFINITE:
                return refusal
            self.retries[f"{refusal.code.name} {refusal.reason}".strip()] += 1
            await asyncio.sleep(0.02 * (1 + turn % 5))
        return refusal

    def _take(self, asked: Asked, reply: Any) -> None:
        sent = reply.SerializeToString()
        if asked.reply:
            if asked.reply != sent:
                self.differing.append(f"{asked.method} {asked.key}")
            return
        asked.reply, asked.told, asked.answered = sent, _told(asked.method, reply), time.time()
        if asked.method == "CreateHold" and asked.told.hold:
            _remember(self._holds, (asked.budget, asked.told.hold))
        elif asked.method in {"Charge", "CaptureHold"}:
            _remember(self._charges, (asked.budget, asked.told.entry, asked.amount or 1))

    def _drawn(self, random: Random, kind: str, key: str) -> Asked:
        """A request of a kind; where there is nothing yet to be committed or given back, another charge."""
        if kind in {"commit", "capture", "release"} and self._holds:
            return self._of_hold(random, kind, key, *random.choice(self._holds))
        if kind == "refund" and self._charges:
            budget, charge, amount = random.choice(self._charges)
            part = None if random.random() < 0.4 else random.randint(1, amount)
            asked = Asked(method="RefundCharge", key=key, budget=budget, charge=charge, amount=part)
            asked.request = pb.RefundChargeRequest(
                id=ids.BUDGET.format(budget), charge_id=ids.ENTRY.format(charge), request_id=key
            )
            return _with_amount(asked)
        budget, amount = random.choice(self.budgets), random.randint(1, _LARGEST)
        if kind == "hold":
            asked = Asked(method="CreateHold", key=key, budget=budget, amount=amount)
            asked.request = pb.CreateHoldRequest(id=ids.BUDGET.format(budget), request_id=key)
            if self.expiring and random.random() < _EXPIRING:
                asked.request.expire_time.CopyFrom(Timestamp(seconds=int(time.time()) + random.randint(15, 30)))
            return _with_amount(asked)
        asked = Asked(method="Charge", key=key, budget=budget, amount=amount)
        asked.request = pb.ChargeRequest(id=ids.BUDGET.format(budget), request_id=key)
        return _with_amount(asked)

    @staticmethod
    def _of_hold(random: Random, kind: str, key: str, budget: UUID, hold: UUID) -> Asked:
        names = {"id": ids.BUDGET.format(budget), "hold_id": ids.HOLD.format(hold), "request_id": key}
        part = None if kind == "commit" or random.random() < 0.4 else random.randint(1, _LARGEST // 2)
        method = {"commit": "CommitHold", "capture": "CaptureHold", "release": "ReleaseHold"}[kind]
        asked = Asked(method=method, key=key, budget=budget, hold=hold, amount=part)
        asked.request = getattr(pb, f"{method}Request")(**names)
        if kind == "capture":
            asked.request.release_rest = random.random() < 0.3
        return _with_amount(asked)


def _with_amount(asked: Asked) -> Asked:
    if asked.amount is not None:
        asked.request.amount.CopyFrom(money(asked.amount))
    return asked


def _remember(pool: list[Any], one: Any) -> None:
    pool.append(one)
    if len(pool) > _REMEMBERED:
        del pool[0]


def _denied(reason: str, metadata: Any, began: float) -> Denied:
    numbers = {name: str(cents(value)) if name in _NUMBERS else value for name, value in metadata.items()}
    return Denied(reason=reason, numbers=numbers, began=began, ended=time.time())


def _told(method: str, reply: Any) -> Told:
    if isinstance(reply, Hold):
        amount, captured, released = (cents(part.amount) for part in (reply.amount, reply.captured, reply.released))
        return Told(
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
    return Told(entry=entry, amount=amount, chain=chain, refundable=refundable)
