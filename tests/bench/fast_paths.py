"""Cost of the hand-written validation and JSON codec compared with the libraries that could do the same.

`python -m tests.bench.fast_paths` prints microseconds per call. Warm is the median of calls without pause; cold is the
median of calls after the processor's caches were overwritten. A call of a service is between the two. Decisions 17 and
18 quote the result.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import protovalidate
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.budget_service_pb2 import CreateBudgetRequest, ListBudgetsResponse
from billing.budgets.v1.ledger_service_pb2 import ChargeRequest
from billing.type.v1.money_pb2 import Money
from google.protobuf import json_format

from contract import codec, fast_validation, json_body
from contract.violations import Violations
from tests.gateway.conftest import BUDGET

WARM_CALLS: Final = 3_000
COLD_CALLS: Final = 200
CACHE_BYTES: Final = 32 * 1024 * 1024


def median_us(function: Callable[[], object], calls: int, before: Callable[[], object] = lambda: None) -> float:
    """Return the median time of a call; `before` runs before each and is not measured."""
    times = []
    for _ in range(calls):
        before()
        started = time.perf_counter_ns()
        function()
        times.append(time.perf_counter_ns() - started)
    return statistics.median(times) / 1e3


def euros(amount: str) -> Money:
    return Money(currency_code="EUR", amount=amount)


def charge() -> ChargeRequest:
    return ChargeRequest(id=BUDGET, request_id="po-4711", amount=euros("12.50"), description="Laptops")


def budget() -> Budget:
    message = Budget(
        id=BUDGET, entity_id="ent_019a5c7e2f407b3c8d1e5a6f7b8c9d0e", name="Cloud", category="cloud", etag="7",
        period_type=Budget.MONTHLY, period_start_date="2026-10-01", period_end_date="2026-11-01", time_zone="UTC",
        amount=euros("1000.00"), spent=euros("250.00"), held=euros("0.00"), available=euros("750.00"),
        alert_thresholds_bp=[5000, 8000, 10000], state=Budget.ACTIVE, utilisation_bp=2500,
    )  # fmt: skip
    message.create_time.FromDatetime(datetime(2026, 10, 1, tzinfo=UTC))
    return message


def encode(message: Any) -> bytes:
    return codec.dumps(codec.encoder(message.DESCRIPTOR)(message))


def encode_generic(message: Any) -> bytes:
    values = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return orjson.dumps(values)


def decode(kind: Any, body: bytes) -> Any:
    message, violations = kind(), Violations()
    codec.decoder(kind.DESCRIPTOR)(message, json_body.parse(body), "", violations)
    assert not violations
    return message


def cases() -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    """Yield name, fast path and library of each case, after a check that both give the same."""
    validator, request = protovalidate.Validator(), charge()
    is_valid = fast_validation.compile_checks(request.DESCRIPTOR)
    assert is_valid
    assert is_valid(request)
    assert not validator.collect_violations(request)
    yield "validate ChargeRequest", lambda: is_valid(request), lambda: validator.collect_violations(request)

    for name, reply in (("Budget", budget()), ("list of 50", ListBudgetsResponse(budgets=[budget()] * 50))):
        assert json.loads(encode(reply)) == json.loads(encode_generic(reply))
        yield f"encode {name}", lambda reply=reply: encode(reply), lambda reply=reply: encode_generic(reply)  # type: ignore[misc]

    for kind, body in (
        (ChargeRequest, b'{"amount": {"currency_code": "EUR", "amount": "12.50"}, "description": "Laptops"}'),
        (CreateBudgetRequest, (b'{"entity_id": "ent_019a5c7e2f407b3c8d1e5a6f7b8c9d0e", "name": "Cloud", "period_type":'
         b' "MONTHLY", "amount": {"currency_code": "EUR", "amount": "1000.00"}, "alert_thresholds_bp": [5000, 8000]}')),
    ):  # fmt: skip
        assert decode(kind, body) == json_format.Parse(body, kind())
        yield (
            f"decode {kind.__name__}",
            lambda kind=kind, body=body: decode(kind, body),  # type: ignore[misc]
            lambda kind=kind, body=body: json_format.Parse(body, kind()),  # type: ignore[misc]
        )


def main() -> None:
    """Print a line for each case."""
    memory = bytearray(CACHE_BYTES)
    print(f"{'':28}{'ours warm':>12}{'library':>10}{'ours cold':>12}{'library':>10}")  # noqa: T201
    for name, ours, library in cases():
        warm = [median_us(function, WARM_CALLS) for function in (ours, library)]
        cold = [median_us(function, COLD_CALLS, lambda: bytes(memory)) for function in (ours, library)]
        print(f"{name:28}{warm[0]:12.1f}{warm[1]:10.1f}{cold[0]:12.1f}{cold[1]:10.1f}")  # noqa: T201


if __name__ == "__main__":
    main()
