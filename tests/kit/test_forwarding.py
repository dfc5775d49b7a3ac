"""Errors of other services that are forwarded to our own caller."""

from typing import NoReturn

import pytest
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from clients.forwarding import forward_errors, reason_of
from kit.error_status import to_status
from kit.errors import BillingError, FailedPrecondition, InvalidArgument, InvalidFields, Unavailable, Violation


class Full(FailedPrecondition):
    reason = "FULL"


def rpc_error(error: BillingError) -> AioRpcError:
    """The error as a client of the other service sees it."""
    details = ("grpc-status-details-bin", to_status(error).SerializeToString())
    return AioRpcError(error.code, Metadata(), Metadata(details), error.message)


def forwarded(error: AioRpcError, *reasons: str) -> BaseException:
    """What `forward_errors` makes of the error."""

    def call() -> NoReturn:
        with forward_errors(reasons):
            raise error

    with pytest.raises((BillingError, AioRpcError)) as raised:
        call()
    return raised.value


def test_a_listed_reason_is_forwarded_with_its_text_and_metadata() -> None:
    error = Full("It is full.", room=3)
    error.metadata["message"] = "is a key like any other"
    again = forwarded(rpc_error(error), "FULL")
    assert isinstance(again, FailedPrecondition)
    assert MessageToDict(to_status(again)) == MessageToDict(
        to_status(error)
    )  # the order of metadata on the wire varies


def test_violations_are_forwarded() -> None:
    error = InvalidFields([Violation("amount", "is too much", "money.amount")])
    again = forwarded(rpc_error(error), "INVALID_FIELDS")
    assert isinstance(again, InvalidArgument)
    assert again.violations == error.violations


def test_other_reasons_stay_as_they_are() -> None:
    error = rpc_error(Full("It is full."))
    assert forwarded(error, "EMPTY") is error
    assert reason_of(error) == "FULL"


def test_failures_of_the_other_service_are_not_forwarded() -> None:
    error = rpc_error(Unavailable("The database"))
    assert forwarded(error, "UNAVAILABLE") is error


def test_an_error_without_details_has_no_reason() -> None:
    error = AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), "")
    assert reason_of(error) == ""
    assert forwarded(error, "FULL") is error
