"""Random bytes, mutated bytes and mutated fields to every RPC: never a server error, and bounded responses.

`make fuzz` runs it longer: FUZZ_CASES of each kind per RPC, from FUZZ_SEED.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from random import Random
from typing import Any, Final
from uuid import uuid4

import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc import StatusCode, aio

from contract.access import AccessRule
from kit.auth import INTERNAL
from kit.error_status import STATUS_METADATA_KEY
from tests.access.mutations import BYTES, mutate
from tests.access.requests import all_methods, new_request
from tests.access.world import Api, World
from tests.harness.tokens import SERVICES, Keys

SEED: Final = int(os.environ.get("FUZZ_SEED", "1"))
CASES: Final = int(os.environ.get("FUZZ_CASES", "1"))
_CONCURRENT: Final = 16
_WITHIN_S: Final = 20.0
_STATUS_BYTES_MAX: Final = 8 * 1024
_REPLY_BYTES_MAX: Final = 8 * 1024 * 1024
_FAULTS: Final = {
    StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNAVAILABLE,
}  # fmt: skip
Case = tuple[MethodDescriptor, str, bytes]


@pytest.fixture(scope="module")
async def target(api: Api, keys: Keys) -> World:
    """Resources that may be changed."""
    return await World.build(api, keys.token(uuid4(), role="billing_admin", subject="fuzz"), "fuzz")


def cases(random: Random, world: World) -> Iterator[Case]:
    """Yield requests to every RPC: each kind of mutation, CASES times."""
    for method in all_methods():
        for _ in range(CASES):
            for kind in BYTES:
                yield method, kind.__name__, kind(random, new_request(method, world.ids).SerializeToString())
            for changes in (1, 3):
                request = new_request(method, world.ids)
                mutate(random, request, changes)
                yield method, f"{changes} fields", request.SerializeToString()


async def send(api: Api, case: Case, token: str) -> str | None:
    """Send a request as bytes. Return a description of the fault of the response; None if it has none."""
    method, kind, payload = case
    channel = api.channels[api.services(method)[0]]
    path = f"/{method.containing_service.full_name}/{method.name}"
    rpc: Any = (channel.unary_stream if method.server_streaming else channel.unary_unary)(path)
    call, started, size = (
        rpc(payload, metadata=[("authorization", f"Bearer {token}")], timeout=_WITHIN_S),
        time.monotonic(),
        0,
    )
    try:
        if method.server_streaming:
            async with asyncio.timeout(1.0):
                await call.initial_metadata()
                size = len(await call.read() or b"")
        else:
            size = len(await call)
    except TimeoutError:
        return None  # an open stream without events
    except aio.AioRpcError as error:
        details = dict(error.trailing_metadata() or ()).get(STATUS_METADATA_KEY, b"")
        faulty = error.code() in _FAULTS or len(details) > _STATUS_BYTES_MAX
        text = f"{error.code().name} {(error.details() or '')[:200]}, status of {len(details)} bytes"
        return f"{method.full_name} ({kind}): {text}: {payload[:200]!r}" if faulty else None
    finally:
        call.cancel()
    seconds = time.monotonic() - started
    bounded = size <= _REPLY_BYTES_MAX
    return None if bounded else f"{method.full_name} ({kind}): {size} bytes in {seconds:.1f} s: {payload[:200]!r}"


async def test_no_input_causes_a_server_error_or_an_unbounded_response(api: Api, keys: Keys, target: World) -> None:
    tenant = uuid4()
    services = {name: keys.service_token(name, tenant) for name in SERVICES}
    slots = asyncio.Semaphore(_CONCURRENT)

    def token_for(method: MethodDescriptor) -> str:
        rule = AccessRule.of(method)
        return services[min(rule.callers)] if rule.permission == INTERNAL else target.token

    async def run(case: Case) -> str | None:
        async with slots:
            return await send(api, case, token_for(case[0]))

    faults = [text for text in await asyncio.gather(*map(run, cases(Random(SEED), target))) if text]  # noqa: S311 - seeded
    assert not faults, f"seed {SEED}, {CASES} cases: {len(faults)} faults\n" + "\n".join(faults[:20])
