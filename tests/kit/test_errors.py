"""Serialized errors: code, reason and standard details."""

from collections.abc import Iterator
from enum import Enum

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc import StatusCode

from kit import errors
from kit.error_status import to_status
from kit.errors import BillingError, FailedPrecondition, InvalidFields, Violation


def all_errors(parent: type[BillingError] = BillingError) -> Iterator[type[BillingError]]:
    for child in parent.__subclasses__():
        yield child
        yield from all_errors(child)


def details(error: BillingError) -> dict[str, Message]:
    unpacked = {}
    for packed in to_status(error).details:
        detail: Message = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        assert packed.Unpack(detail)
        unpacked[type(detail).__name__] = detail
    return unpacked


class Full(FailedPrecondition):
    reason = "FULL"


class Colour(Enum):
    RED = "red"


class TestStatus:
    def test_every_error_has_error_info(self) -> None:
        status = to_status(Full("It is full.", room=3))
        assert (status.code, status.message) == (StatusCode.FAILED_PRECONDITION.value[0], "It is full.")
        info = details(Full("It is full.", room=3))["ErrorInfo"]
        assert info == error_details_pb2.ErrorInfo(reason="FULL", domain="enterprise-billing", metadata={"room": "3"})

    def test_failed_preconditions_are_listed(self) -> None:
        assert "PreconditionFailure" in details(Full("It is full."))
        assert "PreconditionFailure" not in details(errors.Conflict())

    def test_all_violations_are_listed(self) -> None:
        given = [
            Violation("amount", "too much", "money.amount"),
            Violation("lines[2].note", "too long", "string.max_len"),
        ]
        bad = details(InvalidFields(given))["BadRequest"]
        assert isinstance(bad, error_details_pb2.BadRequest)
        listed = [Violation(found.field, found.description, found.reason) for found in bad.field_violations]
        assert listed == given

    def test_a_retryable_error_has_a_delay(self) -> None:
        retry = details(errors.Overloaded())["RetryInfo"]
        assert isinstance(retry, error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToMilliseconds() == 500

    @pytest.mark.parametrize(
        ("value", "text"),
        [(3, "3"), ("a", "a"), (Colour.RED, "red"), ([Colour.RED, "b"], "red, b"), ((), "")],
    )
    def test_metadata_is_text(self, value: object, text: str) -> None:
        assert Full("", value=value).metadata == {"value": text}

    def test_metadata_that_is_none_is_left_out(self) -> None:
        assert Full("", value=None).metadata == {}

    def test_reasons_are_unique(self) -> None:
        named = [error for error in all_errors() if error.__module__ == "kit.errors" and "reason" in vars(error)]
        assert len({error.reason for error in named}) == len(named)
