"""Shares of tenants: unused capacity is available to all, and no tenant uses the share of another."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import pytest

from kit import fairness
from kit.errors import ConcurrencyLimited, Overloaded
from kit.fairness import FairSlots, Gate, OpenStreams, RecentTenants, Shares

ALICE, BOB, CAROL = UUID(int=1), UUID(int=2), UUID(int=3)


def fill(shares: Shares, tenant_id: UUID) -> int:
    """Acquire until it is refused; return the amount."""
    for amount in range(1000):
        try:
            shares.acquire(tenant_id)
        except (ConcurrencyLimited, Overloaded):
            return amount
    raise AssertionError("there is no limit")


async def cancel(*calls: Coroutine[Any, Any, None]) -> None:
    """Start calls, which wait, and cancel them."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=5)
    assert all(task.cancelled() for task in tasks)


class TestShares:
    def test_tenant_alone_uses_all_but_the_reserve(self) -> None:
        assert fill(Shares("calls", 512, 0.125), ALICE) == 448

    def test_tenant_that_arrives_later_finds_room(self) -> None:
        shares = Shares("calls", 512, 0.125)
        fill(shares, ALICE)
        assert fill(shares, BOB) == 64

    def test_tenants_converge_to_equal_shares(self) -> None:
        shares = Shares("calls", 512, 0.125)
        fill(shares, ALICE)
        bobs = fill(shares, BOB)
        for _ in range(300):
            shares.release(ALICE)
            bobs += fill(shares, BOB)
            with pytest.raises((ConcurrencyLimited, Overloaded)):
                shares.acquire(ALICE)
            if bobs == 256:
                break
        assert bobs == 256

    def test_unused_capacity_is_not_refused(self) -> None:
        shares = Shares("calls", 512, 0.125)
        shares.acquire(BOB)
        assert fill(shares, ALICE) == 447

    def test_refusal_shows_whether_the_tenant_or_all_tenants_use_too_much(self) -> None:
        shares = Shares("calls", 4, 0.0)
        fill(shares, ALICE)
        with pytest.raises(ConcurrencyLimited) as limited:
            shares.acquire(ALICE)
        assert (limited.value.metadata, limited.value.retry_after_s) == ({"resource": "calls"}, 1.0)
        with pytest.raises(Overloaded) as overloaded:
            shares.acquire(BOB)
        assert overloaded.value.retry_after_s == 0.5

    def test_refusals_are_counted_by_resource_and_reason(self) -> None:
        def counted(reason: str) -> float:
            return float(fairness.REFUSALS.labels("probes", reason)._value.get())

        shares = Shares("probes", 2, 0.0)
        fill(shares, ALICE)
        with pytest.raises(Overloaded):
            shares.acquire(BOB)
        assert (counted("tenant"), counted("all")) == (1, 1)

    def test_amounts_are_weighed(self) -> None:
        shares = Shares("request_bytes", 100, 0.2)
        shares.acquire(ALICE, 80)
        with pytest.raises(ConcurrencyLimited):
            shares.acquire(ALICE, 1)
        shares.acquire(BOB, 20)
        shares.release(ALICE, 80)
        assert shares.total == 20


class TestStreams:
    async def test_streams_of_one_tenant_leave_room_for_those_of_others(self) -> None:
        streams = OpenStreams(512, 0.125)
        alices = [streams.open(ALICE) for _ in range(448)]
        with pytest.raises(ConcurrencyLimited):
            streams.open(ALICE)
        bobs = [streams.open(BOB) for _ in range(200)]
        assert not any(end.done() for end in bobs)
        ended = [end for end in alices if end.done()]
        assert (len(streams), len(ended)) == (512, 448 - 312)
        assert all(isinstance(end.exception(), ConcurrencyLimited) for end in ended)
        assert ended == alices[-len(ended) :], "the newest ones end"
        carols = [streams.open(CAROL) for _ in range(100)]
        assert not any(end.done() for end in (*bobs[:170], *carols))

    async def test_tenant_does_not_end_its_own_streams(self) -> None:
        streams = OpenStreams(4, 0.0)
        ends = [streams.open(ALICE) for _ in range(4)]
        with pytest.raises(ConcurrencyLimited):
            streams.open(ALICE)
        assert not any(end.done() for end in ends)

    async def test_ended_stream_may_be_closed_afterwards(self) -> None:
        streams = OpenStreams(2, 0.0)
        first, second = streams.open(ALICE), streams.open(ALICE)
        bobs = streams.open(BOB)
        assert (first.done(), second.done(), len(streams)) == (False, True, 2)
        for tenant_id, end in ((ALICE, first), (ALICE, second), (BOB, bobs)):
            streams.close(tenant_id, end)
        assert len(streams) == 0


class TestGate:
    async def test_tenant_alone_runs_up_to_the_limit(self) -> None:
        gate = Gate(8, 2, RecentTenants())
        async with asyncio.timeout(5):
            for _ in range(8):
                await gate.enter(ALICE)
        await self._waits(gate, ALICE)

    async def test_few_calls_of_a_tenant_run_while_others_are_active(self) -> None:
        recent = RecentTenants()
        recent.see(ALICE)
        recent.see(BOB)
        gate = Gate(8, 2, recent)
        async with asyncio.timeout(5):
            await gate.enter(ALICE)
            await gate.enter(ALICE)
            await gate.enter(BOB)
        await self._waits(gate, ALICE)

    async def _waits(self, gate: Gate, tenant_id: UUID) -> None:
        """Check that a call waits until another one ends, in order, and that a cancelled one is forgotten."""
        first, cancelled, second = (asyncio.create_task(gate.enter(tenant_id)) for _ in range(3))
        await asyncio.sleep(0)
        assert not first.done()
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.leave(tenant_id)
        await asyncio.wait_for(first, 5)
        assert not second.done()
        gate.leave(tenant_id)
        await asyncio.wait_for(second, 5)

    async def test_turn_that_is_cancelled_as_it_begins_goes_to_the_next(self) -> None:
        gate = Gate(1, 1, RecentTenants())
        await gate.enter(ALICE)
        first, second = (asyncio.create_task(gate.enter(ALICE)) for _ in range(2))
        await asyncio.sleep(0)
        gate.leave(ALICE)
        first.cancel()
        await asyncio.wait_for(second, 5)
        gate.leave(ALICE)
        await asyncio.wait_for(gate.enter(ALICE), 5)

    async def test_cancelled_calls_leave_the_queue_at_once(self) -> None:
        gate = Gate(1, 1, RecentTenants())
        await gate.enter(ALICE)
        await cancel(gate.enter(ALICE), gate.enter(ALICE))
        assert not gate._waiting


class TestPauses:
    """Between the turns of a tenant that sends more than may run, others find the event loop free."""

    @pytest.mark.parametrize(("size", "pause_s"), [(0, 0.1), (300, 0.3)])
    async def test_turn_is_followed_by_a_pause_while_others_are_active(self, size: int, pause_s: float) -> None:
        assert await self._pause_s(self._gate(BOB), size) >= pause_s

    async def test_tenant_alone_makes_no_pauses(self) -> None:
        assert await self._pause_s(self._gate(), 900) < 0.9

    async def _pause_s(self, gate: Gate, size: int) -> float:
        """Return how long the second call waits after the end of the first one, whose turn takes 0.05 s."""
        await gate.enter(ALICE)
        waiting = asyncio.create_task(gate.enter(ALICE))
        await asyncio.sleep(0.05)
        ended_at = time.monotonic()
        gate.leave(ALICE, size)
        await asyncio.wait_for(waiting, 5)
        return time.monotonic() - ended_at

    async def test_next_call_begins_at_once_if_none_waited(self) -> None:
        gate = self._gate(BOB)
        await gate.enter(ALICE)
        gate.leave(ALICE, 300)
        assert gate.try_enter(ALICE)

    async def test_other_tenant_does_not_wait_for_a_pause(self) -> None:
        gate = self._gate(BOB)
        await gate.enter(ALICE)
        waiting = asyncio.create_task(gate.enter(ALICE))
        await asyncio.sleep(0)
        gate.leave(ALICE, 300)
        assert gate.try_enter(BOB)
        assert not waiting.done()
        await asyncio.wait_for(waiting, 5)

    def _gate(self, *others: UUID) -> Gate:
        recent = RecentTenants()
        for tenant_id in (*others, ALICE):
            recent.see(tenant_id)
        return Gate(1, 1, recent, pause=2.0, bytes_per_s=1000)


class TestSlots:
    async def test_tenants_that_wait_are_served_in_turn(self) -> None:
        slots, order = FairSlots("connections", 1, 0.0), list[str]()

        async def use(name: str, tenant_id: UUID) -> None:
            await slots.acquire(tenant_id, 5)
            order.append(name)
            slots.release(tenant_id)

        await slots.acquire(CAROL, 5)
        waiting = [asyncio.create_task(use(f"a{n}", ALICE)) for n in range(3)]
        waiting += [asyncio.create_task(use(f"b{n}", BOB)) for n in range(2)]
        await asyncio.sleep(0)
        slots.release(CAROL)
        await asyncio.wait_for(asyncio.gather(*waiting), 5)
        assert order == ["a0", "b0", "a1", "b1", "a2"]

    async def test_tenant_leaves_slots_for_others(self) -> None:
        slots = FairSlots("connections", 8, 0.25)
        async with asyncio.timeout(5):
            for _ in range(6):
                await slots.acquire(ALICE, 5)
            seventh = asyncio.create_task(slots.acquire(ALICE, 5))
            await slots.acquire(BOB, 5)
            await slots.acquire(BOB, 5)
        assert not seventh.done()
        slots.release(ALICE)
        assert not seventh.done()
        third = asyncio.create_task(slots.acquire(BOB, 5))
        await asyncio.wait_for(third, 5)
        slots.release(BOB)
        slots.release(BOB)
        slots.release(ALICE)
        await asyncio.wait_for(seventh, 5)

    async def test_call_that_waits_too_long_is_refused(self) -> None:
        slots = FairSlots("connections", 1, 0.0)
        await slots.acquire(ALICE, 5)
        with pytest.raises(Overloaded):
            await slots.acquire(ALICE, 0.01)
        slots.release(ALICE)
        await slots.acquire(ALICE, 5)

    async def test_slot_of_a_cancelled_call_goes_to_the_next(self) -> None:
        slots = FairSlots("connections", 1, 0.0)
        await slots.acquire(ALICE, 5)
        first, second = (asyncio.create_task(slots.acquire(tenant_id, 5)) for tenant_id in (ALICE, BOB))
        await asyncio.sleep(0)
        slots.release(ALICE)
        first.cancel()
        await asyncio.wait_for(second, 5)

    async def test_cancelled_and_refused_calls_leave_the_queue_at_once(self) -> None:
        slots = FairSlots("connections", 1, 0.0)
        await slots.acquire(ALICE, 5)
        await cancel(slots.acquire(ALICE, 5), slots.acquire(BOB, 5))
        with pytest.raises(Overloaded):
            await slots.acquire(BOB, 0.01)
        assert not slots._waiting
