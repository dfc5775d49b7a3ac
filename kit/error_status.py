"""Converts errors to google.rpc.Status, cut to the size of metadata that gRPC clients accept."""

from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from kit.errors import TRUNCATED, VIOLATIONS_MAX, BillingError, Violation

DOMAIN = "enterprise-billing"
STATUS_METADATA_KEY = "grpc-status-details-bin"
"""Key of the trailing metadata in which gRPC sends a serialized google.rpc.Status."""

_STATUS_BYTES_MAX: Final = 7_680
"""Maximum size of message and details on the wire: gRPC clients accept 8 KiB of metadata by default."""
_MESSAGE_BYTES_MAX: Final = 1_000
_METADATA_BYTES_MAX: Final = 2_000
_VALUE_BYTES_MAX: Final = 500
_PATH_BYTES_MAX: Final = 200
_FRAMING: Final = 4
"""Bytes around a message within another one."""
_ANY_FRAMING: Final = 40
"""Bytes of an Any beside its value and the name of its type."""
_CHARACTER_BYTES_MAX: Final = 12
"""A character has up to four bytes, each of which takes three in percent-encoding."""
_PLAIN_BYTES: Final = bytes(byte for byte in range(0x20, 0x7F) if byte != ord("%"))
_ELLIPSIS: Final = "…"


def to_status(error: BillingError) -> status_pb2.Status:
    """Convert to google.rpc.Status, with ErrorInfo and the other standard details that apply.

    What does not fit into the trailing metadata of a call is left out: texts that were cut end with an ellipsis, and
    the metadata has `truncated`.
    """
    message = clip(error.message, _MESSAGE_BYTES_MAX)
    metadata = _fitting_metadata(error.metadata)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    details: list[Message] = [info]
    if error.code is StatusCode.FAILED_PRECONDITION:
        failure = error_details_pb2.PreconditionFailure.Violation(type=error.reason, description=message)
        details.append(error_details_pb2.PreconditionFailure(violations=[failure]))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    # The message of an error with violations only repeats them.
    truncated = metadata != error.metadata or (message != error.message and not error.violations)
    if error.violations:
        room = (_STATUS_BYTES_MAX - _sent_size(message)) * 3 // 4  # the details are sent in base64
        fields = _fitting_fields(error.violations, room - len(message.encode()) - sum(map(_packed_size, details)))
        truncated = truncated or len(fields) < len(error.violations)
        details.insert(1, error_details_pb2.BadRequest(field_violations=fields))
    if truncated:
        info.metadata[TRUNCATED] = "true"
    return status_pb2.Status(code=error.code.value[0], message=message, details=map(_pack, details))


def _fitting_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    room, fitting = _METADATA_BYTES_MAX, dict[str, str]()
    for key, value in metadata.items():
        fitting[key] = clip(value, max(0, min(_VALUE_BYTES_MAX, room)))
        room -= _sent_size(fitting[key])
    return fitting


def _fitting_fields(violations: Sequence[Violation], room: int) -> list[error_details_pb2.BadRequest.FieldViolation]:
    fitting = []
    for violation in violations[:VIOLATIONS_MAX]:
        field = error_details_pb2.BadRequest.FieldViolation(
            field=clip(violation.field, _PATH_BYTES_MAX),
            description=clip(violation.description, _VALUE_BYTES_MAX),
            reason=violation.rule,
        )
        room -= field.ByteSize() + _FRAMING
        if room < 0:
            break
        fitting.append(field)
    return fitting


def _packed_size(detail: Message) -> int:
    return detail.ByteSize() + len(detail.DESCRIPTOR.full_name) + _ANY_FRAMING


def clip(text: str, bytes_max: int) -> str:
    """Return the text, cut with an ellipsis if it is larger than `bytes_max` in the form in which gRPC sends it."""
    if len(text) * _CHARACTER_BYTES_MAX <= bytes_max:
        return text
    head = text[: bytes_max + 1]
    if _sent_size(head) <= bytes_max:
        return text
    room = bytes_max - _sent_size(_ELLIPSIS)
    for index, character in enumerate(head):
        room -= _sent_size(character)
        if room < 0:
            return head[:index] + _ELLIPSIS
    return head


def _sent_size(text: str) -> int:
    """Return the size of a text in percent-encoding: gRPC encodes all bytes but printable ASCII with three."""
    data = text.encode("utf-8", "replace")
    return len(data) + 2 * len(data.translate(None, _PLAIN_BYTES))


def _pack(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
