"""Fairness of the batcher: tenants are served in turn, a failing request does not delay the others and ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import pytest

from kit import batching
from kit.batching import Batcher
from kit.errors import BillingError, Conflict
from tests.harness.observe import eventually

ALICE, BOB = UUID(int=1), UUID(int=2)


def _condition(holds: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    """As `eventually` takes it."""

    async def checked() -> object:
        return holds()

    return checked


class Processor:
    """Records the batches and processes them once `go` is set."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = asyncio.Event()
        self.failing: dict[str, Exception] = {}

    async def __call__(self, requests: Sequence[str]) -> list[str]:
        self.batches.append(list(requests))
        await self.go.wait()
        for request in requests:
            if request in self.failing:
                raise self.failing[request]
        return [f"{request} done" for request in requests]


@pytest.fixture
def processor() -> Processor:
    return Processor()


@pytest.fixture
def batcher(processor: Processor) -> Batcher[str, str]:
    return Batcher(processor)


class UniqueViolation(Exception):
    sqlstate = "23505"


class LockNotAvailable(Exception):
    sqlstate = "55P03"


class TestFairness:
    async def test_tenants_take_turns_and_each_keeps_its_order(
        self, processor: Processor, batcher: Batcher[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batching, "BATCH_MAX", 2)
        first = asyncio.create_task(batcher.submit(ALICE, "a0"))
        await eventually(_condition(lambda: processor.batches))
        waiting = [asyncio.create_task(batcher.submit(ALICE, f"a{n}")) for n in (1, 2, 3)]
        waiting += [asyncio.create_task(batcher.submit(BOB, "b1"))]
        await asyncio.sleep(0)
        processor.go.set()
        assert await asyncio.gather(first, *waiting) == ["a0 done", "a1 done", "a2 done", "a3 done", "b1 done"]
        assert processor.batches == [["a0"], ["a1", "b1"], ["a2", "a3"]]


class TestFailures:
    async def test_only_the_request_that_fails_gets_its_error(
        self, processor: Processor, batcher: Batcher[str, str]
    ) -> None:
        processor.go.set()
        processor.failing["r3"] = ValueError("broken")
        requests = [batcher.submit(ALICE, f"r{n}") for n in range(8)]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == [processor.failing["r3"]]

    async def test_the_error_of_a_request_refers_to_no_error_of_other_requests(
        self, processor: Processor, batcher: Batcher[str, str]
    ) -> None:
        processor.go.set()
        processor.failing = {"r0": LockNotAvailable(), "r1": ValueError("broken")}
        outcomes = await asyncio.gather(*(batcher.submit(ALICE, f"r{n}") for n in range(2)), return_exceptions=True)
        assert [error.__context__ for error in outcomes if isinstance(error, Exception)] == [None, None]

    async def test_key_whose_reply_another_replica_stores_is_a_conflict_after_the_last_attempt(
        self, processor: Processor, batcher: Batcher[str, str]
    ) -> None:
        processor.go.set()
        processor.failing = {"r1": UniqueViolation()}
        requests = [batcher.submit(ALICE, f"r{n}") for n in range(4)]
        async with asyncio.timeout(5):
            r0, r1, *others = await asyncio.gather(*requests, return_exceptions=True)
        assert isinstance(r1, Conflict)
        assert [r0, *others] == ["r0 done", "r2 done", "r3 done"]
        assert len(processor.batches) < 60

    async def test_a_request_that_always_fails_is_given_up(
        self, processor: Processor, batcher: Batcher[str, str]
    ) -> None:
        processor.go.set()
        error = LockNotAvailable()
        processor.failing = {"r1": error}
        requests = [batcher.submit(ALICE, f"r{n}") for n in range(4)]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert outcomes == ["r0 done", error, "r2 done", "r3 done"]
        assert len(processor.batches) < 60

    async def test_a_retry_is_refused_when_the_queue_is_full_and_the_others_go_on(
        self, processor: Processor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        processor.failing = {"r0": LockNotAvailable()}
        monkeypatch.setattr(batching, "QUEUE_MAX", 1)
        batcher: Batcher[str, str] = Batcher(processor)
        requests = [asyncio.create_task(batcher.submit(ALICE, "r0"))]
        await eventually(_condition(lambda: processor.batches))
        requests += [asyncio.create_task(batcher.submit(ALICE, "r1"))]
        await asyncio.sleep(0)
        processor.go.set()
        async with asyncio.timeout(5):
            refusal, done = await asyncio.gather(*requests, return_exceptions=True)
        assert isinstance(refusal, BillingError)
        assert (refusal.reason, done) == ("CONCURRENCY_LIMITED", "r1 done")


class TestCallersThatGiveUp:
    async def test_the_others_of_the_batch_get_their_results(
        self, processor: Processor, batcher: Batcher[str, str]
    ) -> None:
        requests = [asyncio.create_task(batcher.submit(ALICE, f"r{n}")) for n in range(3)]
        await eventually(_condition(lambda: processor.batches))
        assert processor.batches == [["r0", "r1", "r2"]]
        requests[0].cancel()
        late = asyncio.create_task(batcher.submit(ALICE, "r3"))
        await asyncio.sleep(0)
        processor.go.set()
        async with asyncio.timeout(5):
            assert await asyncio.gather(*requests[1:], late) == ["r1 done", "r2 done", "r3 done"]

    async def test_a_request_nobody_waits_for_is_not_processed(
        self, processor: Processor, batcher: Batcher[str, str]
    ) -> None:
        first = asyncio.create_task(batcher.submit(ALICE, "r0"))
        await eventually(_condition(lambda: processor.batches))
        cancelled, waits = (asyncio.create_task(batcher.submit(ALICE, f"r{n}")) for n in (1, 2))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        processor.go.set()
        assert list(await asyncio.gather(first, waits)) == ["r0 done", "r2 done"]
        assert processor.batches == [["r0"], ["r2"]]


class TestLingering:
    @pytest.fixture(autouse=True)
    def _generous(self, processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
        """Times so long that a busy machine does not matter."""
        processor.go.set()
        monkeypatch.setattr(batching, "BUSY_S", 60.0)
        monkeypatch.setattr(batching, "LINGER_STEP_S", 0.5)
        monkeypatch.setattr(batching, "LINGER_MAX_S", 5.0)

    async def test_a_lone_caller_never_waits(self, batcher: Batcher[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batching, "LINGER_STEP_S", 3600.0)
        async with asyncio.timeout(5):
            for n in range(5):
                await batcher.submit(ALICE, f"r{n}")

    async def test_after_a_batch_of_several_the_next_one_waits_for_more(
        self, processor: Processor, batcher: Batcher[str, str]
    ) -> None:
        await asyncio.gather(*(batcher.submit(ALICE, f"r{n}") for n in range(2)))
        early = asyncio.create_task(batcher.submit(ALICE, "early"))
        await asyncio.sleep(0.1)
        assert len(processor.batches) == 1
        await asyncio.gather(early, batcher.submit(ALICE, "late"))
        assert processor.batches == [["r0", "r1"], ["early", "late"]]

    async def test_that_is_forgotten_after_a_while(
        self, processor: Processor, batcher: Batcher[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batching, "BUSY_S", 0.0)
        monkeypatch.setattr(batching, "LINGER_STEP_S", 3600.0)
        await asyncio.gather(*(batcher.submit(ALICE, f"r{n}") for n in range(2)))
        async with asyncio.timeout(5):
            await batcher.submit(ALICE, "alone")
        assert processor.batches == [["r0", "r1"], ["alone"]]

    async def test_a_batch_waits_for_a_limited_time_only(
        self, processor: Processor, batcher: Batcher[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batching, "LINGER_STEP_S", 0.1)
        monkeypatch.setattr(batching, "LINGER_MAX_S", 0.3)
        await asyncio.gather(*(batcher.submit(ALICE, f"r{n}") for n in range(2)))
        started = time.monotonic()
        requests = []
        while len(processor.batches) == 1 and time.monotonic() < started + 30:
            requests.append(asyncio.create_task(batcher.submit(ALICE, "more")))
            await asyncio.sleep(0.01)
        assert time.monotonic() < started + 30
        await asyncio.gather(*requests)

    async def test_a_full_batch_does_not_wait(
        self, processor: Processor, batcher: Batcher[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batching, "BATCH_MAX", 2)
        monkeypatch.setattr(batching, "LINGER_STEP_S", 3600.0)
        await asyncio.gather(*(batcher.submit(ALICE, f"r{n}") for n in range(2)))
        async with asyncio.timeout(5):
            await asyncio.gather(*(batcher.submit(ALICE, f"s{n}") for n in range(2)))
        assert processor.batches == [["r0", "r1"], ["s0", "s1"]]
