"""Refusals of all requests are bounded in time and size."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from billing.approvals.v1.approval_rule_service_pb2 import CreateApprovalRuleRequest
from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.entities.v1.entity_service_pb2 import CreateEntityRequest
from billing.entities.v1.exchange_rate_service_pb2 import SetExchangeRatesRequest
from google.protobuf.message import Message

from contract import validation, wire
from contract.field_rules import unknown
from kit import ids
from kit.error_status import clip, to_status
from kit.errors import BillingError, FailedPrecondition, InvalidFields, MalformedBody, TokenMissing, Violation
from tests.kit.probe import DoRequest

SECONDS_MAX = 0.25
"""Far above the few milliseconds that a refusal takes, for busy machines; without limits it took seconds."""
GRPC_DEFAULT = 8 * 1024


@pytest.fixture(scope="module", autouse=True)
def validator() -> None:
    """Import the validator, which takes longer than a refusal may take."""
    with pytest.raises(InvalidFields):
        validation.check(pb.ChargeRequest())


def raised_by(check: Callable[[], object]) -> InvalidFields:
    started = time.process_time()
    with pytest.raises(InvalidFields) as raised:
        check()
    assert time.process_time() - started < SECONDS_MAX
    return raised.value


def sent_size(error: BillingError) -> int:
    """Return the size of an error in trailing metadata."""
    status: Any = to_status(error)
    message = sum(1 if 0x20 <= byte < 0x7F and byte != 0x25 else 3 for byte in status.message.encode())
    details: int = status.ByteSize()
    return message + -(-details // 3) * 4


class TestViolations:
    def test_checks_stop_at_fifty_violations_and_the_refusal_states_that_there_are_more(self) -> None:
        request = pb.BatchChargeRequest(charges=[pb.ChargeRequest(id="x") for _ in range(1000)])
        error = raised_by(lambda: validation.check(request))
        assert len(error.violations) == 50
        assert error.metadata == {"truncated": "true"}
        assert error.message.startswith("Invalid request, with more violations than the 50 listed: charges[0]")

    def test_fifty_violations_are_all_listed(self) -> None:
        request = DoRequest(labels=["\0"] * 50)
        error = raised_by(lambda: validation.check(request))
        assert ([v.field for v in error.violations][-1], error.metadata) == ("labels[49]", {})
        request.labels.append("\0")
        assert raised_by(lambda: validation.check(request)).metadata == {"truncated": "true"}

    def test_invalid_items_after_many_valid_ones_are_found(self) -> None:
        valid = pb.ChargeRequest(id=ids.BUDGET.format(ids.new()), request_id="k")
        valid.amount.currency_code, valid.amount.amount = "EUR", "1.00"
        request = pb.BatchChargeRequest(charges=[valid] * 998)
        request.charges.add(id=valid.id, request_id="k")
        request.charges.add(id=valid.id, amount=valid.amount)
        error = raised_by(lambda: validation.check(request))
        assert [v.field for v in error.violations] == ["charges[998].amount", "charges[999].request_id"]

    def test_message_types_that_only_protovalidate_checks_are_bounded_too(self) -> None:
        request = SetExchangeRatesRequest()
        for _ in range(1000):
            request.rates.add()
        assert len(raised_by(lambda: validation.check(request)).violations) == 50

    def test_long_list_of_names_is_given_once(self) -> None:
        names = [f"field_number_{n}" for n in range(20)]
        error = InvalidFields([unknown(f"lines[{n}]", "x", "is not a known field", names) for n in range(3)])
        texts = [v.description for v in error.violations]
        assert texts[0].endswith(", ".join(names))
        assert texts[1:] == ["is not a known field; known are: those listed for lines[0].x"] * 2

    def test_short_list_of_names_is_repeated(self) -> None:
        given = [Violation("a", "must be one of A, B"), Violation("b", "must be one of A, B")]
        assert InvalidFields(given).violations == given


class TestLists:
    @pytest.mark.parametrize(
        ("kind", "field", "number", "count"),
        [(pb.BatchChargeRequest, "charges", 1, 100_000), (pb.CheckAvailabilityRequest, "lines", 4, 150_000)],
        ids=["BatchCharge", "CheckAvailability"],
    )
    def test_count_is_checked_before_the_items(self, kind: type[Message], field: str, number: int, count: int) -> None:
        payload = bytes([number << 3 | 2, 0]) * count
        descriptor: Any = kind.DESCRIPTOR
        request = kind.FromString(payload)
        assert len(getattr(request, field)) == count
        for check in (lambda: wire.check_counts(descriptor, payload), lambda: validation.check(request)):
            error = raised_by(check)
            of_list = [violation for violation in error.violations if violation.field.startswith(field)]
            assert of_list == [Violation(field, "must have at most 1000 items", "repeated.max_items")]

    def test_other_fields_are_reported_with_a_list_that_is_too_long(self) -> None:
        request = pb.CheckAvailabilityRequest(id="x", lines=[pb.CheckLine()] * 1001)
        assert [v.field for v in raised_by(lambda: validation.check(request)).violations] == ["lines", "id", "amount"]
        assert len(request.lines) == 1001

    def test_list_in_an_item_has_the_path_of_the_item(self) -> None:
        request = CreateApprovalRuleRequest(name="x")
        request.steps.add()
        for _ in range(21):
            request.steps.add().approvers.add()
        step = request.steps[1]
        for _ in range(20):
            step.approvers.add()
        del request.steps[20:]
        error = raised_by(lambda: validation.check(request))
        assert Violation("steps[1].approvers", "must have at most 20 items", "repeated.max_items") in error.violations

    def test_map_that_is_too_long_is_reported_as_a_whole(self) -> None:
        request = CreateEntityRequest(metadata={f"key-{n}": "v" * 501 for n in range(51)})
        violations = raised_by(lambda: validation.check(request)).violations
        assert violations[0] == Violation("metadata", "must have at most 50 items", "map.max_pairs")
        assert not [violation for violation in violations[1:] if violation.field.startswith("metadata")]


class TestScan:
    """Large messages are scanned before they are parsed."""

    def scan(self, request: type[Message], payload: bytes) -> None:
        descriptor: Any = request.DESCRIPTOR
        wire.check_counts(descriptor, payload)

    def test_four_megabytes_of_empty_items_are_not_parsed(self) -> None:
        payload = b"\x0a\x00" * (2 * 1024 * 1024)
        error = raised_by(lambda: self.scan(pb.BatchChargeRequest, payload))
        assert [v.field for v in error.violations] == ["charges"]

    def test_list_in_an_item_is_counted(self) -> None:
        steps: Any = CreateApprovalRuleRequest.DESCRIPTOR.fields_by_name["steps"]
        approvers = steps.message_type.fields_by_name["approvers"]
        step = bytes([approvers.number << 3 | 2, 0]) * 1_900_000
        payload = bytes([steps.number << 3 | 2]) + _varint(len(step)) + step
        error = raised_by(lambda: self.scan(CreateApprovalRuleRequest, payload))
        assert [v.field for v in error.violations] == ["steps[0].approvers"]

    def test_valid_large_message_passes(self) -> None:
        charge = pb.ChargeRequest(id=ids.BUDGET.format(ids.new()), request_id="k", description="é" * 200)
        request = pb.BatchChargeRequest(charges=[charge] * 1000, atomic=True)
        payload = request.SerializeToString()
        assert len(payload) > wire.UNSCANNED_BYTES_MAX
        self.scan(pb.BatchChargeRequest, payload)

    @pytest.mark.parametrize(
        "payload",
        [
            b"\xff" * 100_000,
            b"\x0b" * 100_000,
            b"\x0a\xff\xff\xff\x7f" + b"x" * 100_000,
            b"\x10\x01" * 100_000,
            b"\x0a\x02\x0a" + b"\x80" * 100_000,
        ],
        ids=["endless varint", "groups", "length beyond the end", "one field many times", "ends in a varint"],
    )
    def test_garbage_is_a_malformed_body(self, payload: bytes) -> None:
        started = time.process_time()
        with pytest.raises(MalformedBody):
            self.scan(pb.BatchChargeRequest, payload)
        assert time.process_time() - started < SECONDS_MAX


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


class Texts(FailedPrecondition):
    reason = "TEXTS"


class Values(FailedPrecondition):
    reason = "VALUES"

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__("x")
        self.metadata = values


class TestSize:
    @pytest.mark.parametrize(
        "error",
        [
            InvalidFields([Violation(f"lines[{n}].currency_code", "é" * 300, "x" * 20) for n in range(100)]),
            InvalidFields([Violation("m['" + "k" * 100_000 + "']", "x" * 1_000_000, "rule")] * 51),
            Texts("é" * 5_000),
            Values({f"value_{n}": "%" * 1_000 for n in range(20)}),
            Texts(
                "\n" * 3_000, violations=[Violation("a", "日" * 3_000, "rule")] * 60, a="日" * 3_000, retry_after_s=1
            ),
        ],
        ids=["many violations", "long texts", "long message", "much metadata", "everything"],
    )
    def test_every_error_fits_into_the_metadata_that_clients_accept(self, error: BillingError) -> None:
        assert sent_size(error) < GRPC_DEFAULT - 300  # for the other trailers of a response
        status = to_status(error)
        assert any(b"truncated" in detail.value for detail in status.details)

    def test_small_error_is_sent_as_it_is(self) -> None:
        assert to_status(TokenMissing()).message == TokenMissing().message
        assert b"truncated" not in to_status(TokenMissing()).SerializeToString()

    @pytest.mark.parametrize(
        ("text", "size", "expected"),
        [
            ("abc", 3, "abc"),
            ("abcd" * 9, 12, "abc…"),
            ("éé", 12, "éé"),
            ("ééé", 15, "é…"),
            ("%%%%%", 14, "%…"),
            ("", 0, ""),
        ],
    )
    def test_text_is_cut_by_the_size_in_which_grpc_sends_it(self, text: str, size: int, expected: str) -> None:
        assert clip(text, size) == expected
