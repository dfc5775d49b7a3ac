"""Requests that schemathesis generates from the OpenAPI document, valid and invalid ones: never a server error.

`make fuzz` runs it longer: FUZZ_CASES of each kind per operation, from FUZZ_SEED.
"""

import gc
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.generation import GenerationMode

from contract import openapi
from tests.flows.conftest import Stack

SEED: Final = int(os.environ.get("FUZZ_SEED", "1"))
CASES: Final = int(os.environ.get("FUZZ_CASES", "1"))
_RESPONSE_BYTES_MAX: Final = 8 * 1024 * 1024
_REFUSAL_BYTES_MAX: Final = 64 * 1024
_TIMEOUT_S: Final = 35.0


def operations() -> list[Any]:
    """Return every operation of the document that is no stream."""
    schema: Any = schemathesis.openapi.from_dict(openapi.document())
    listed = [result.ok() for result in schema.get_all_operations()]
    return [each for each in listed if "text/event-stream" not in str(each.definition.raw["responses"].get("200"))]


def fault(case: Any, stack: Stack, headers: dict[str, str]) -> str:
    """Send a request. Return a description of the fault of the response; empty if it has none."""
    response = case.call(base_url=stack.url, headers=headers, timeout=_TIMEOUT_S)
    size = len(response.content)
    limit = _RESPONSE_BYTES_MAX if response.status_code < 400 else _REFUSAL_BYTES_MAX
    if response.status_code >= 500 or size > limit:
        return f"{case.method} {case.formatted_path}: {response.status_code}, {size} bytes: {response.text[:300]}"
    return ""


def generate(operation: Any, mode: GenerationMode, send: Callable[[Any], None]) -> None:
    """Send CASES generated requests to an operation, the same for the same seed."""

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=CASES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        send(case)

    with suppress(hypothesis.errors.Unsatisfiable):  # the operation has nothing that could be invalid
        run()


# The library leaves its connections to the garbage collector, which warns of them.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_causes_a_server_error_or_an_unbounded_response(stack: Stack, mode: GenerationMode) -> None:
    token = stack.local("token", ROLE="billing_admin", TENANT=f"generated-{uuid4().hex[:8]}").strip()
    results: list[str] = []

    def send(case: Any) -> None:
        results.append(fault(case, stack, {"Authorization": f"Bearer {token}"}))

    for operation in operations():
        generate(operation, mode, send)
    gc.collect()
    faults = [text for text in results if text]
    assert len(results) > len(operations()) / 2
    assert not faults, f"seed {SEED}, {CASES} cases: {len(faults)} faults\n" + "\n".join(faults[:20])
