"""Callers with tokens, and the details of rejected calls."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode, aio

from kit.telemetry import Trace

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)


@dataclass(frozen=True, slots=True)
class Caller:
    """A user with a token and a trace."""

    tenant_id: UUID
    subject: str
    token: str
    trace: Trace = field(default_factory=lambda: Trace.from_header(None))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of every call."""
        return ("authorization", f"Bearer {self.token}"), ("traceparent", self.trace.header())

    async def call(
        self, rpc: aio.UnaryUnaryMultiCallable[RequestT, ReplyT], request: RequestT, *, within_s: float = 20.0
    ) -> ReplyT:
        """Call the RPC: `await finance.call(budgets.budgets.GetBudget, GetBudgetRequest(id=…))`."""
        return await rpc(request, metadata=self.metadata, timeout=within_s)

    async def call_with_trailers(
        self, rpc: aio.UnaryUnaryMultiCallable[RequestT, ReplyT], request: RequestT, *, within_s: float = 20.0
    ) -> tuple[ReplyT, Mapping[str, str]]:
        """Call the RPC; return the reply and its trailing metadata."""
        call = rpc(request, metadata=self.metadata, timeout=within_s)
        reply = await call
        trailers = await call.trailing_metadata() or ()
        return reply, {key: value for key, value in trailers if isinstance(value, str)}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A gRPC error with its details unpacked."""

    code: StatusCode
    message: str
    reason: str
    """`ErrorInfo.reason`."""
    metadata: Mapping[str, str]
    """`ErrorInfo.metadata`."""
    fields: Mapping[str, str]
    """Description of the violation by field, from `BadRequest`."""
    rules: Mapping[str, str]
    """Violated rule by field."""
    retry_after_s: float | None
    """`RetryInfo`."""

    @classmethod
    def of(cls, error: aio.AioRpcError) -> "Refusal":
        """Unpack an error; without details its reason is empty."""
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        status = status_pb2.Status.FromString(details if isinstance(details, bytes) else b"")
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        for detail in status.details:
            for kind in (info, bad, retry):
                if detail.Is(kind.DESCRIPTOR):
                    detail.Unpack(kind)
        return cls(
            code=error.code(),
            message=error.details() or "",
            reason=info.reason,
            metadata=dict(info.metadata),
            fields={violation.field: violation.description for violation in bad.field_violations},
            rules={violation.field: violation.reason for violation in bad.field_violations},
            retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
        )


async def refusal(call: Awaitable[object]) -> Refusal:
    """Await a call that must be rejected: `(await refusal(finance.call(…))).reason == "…"`. Fails if it succeeds."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    pytest.fail(f"the call was not rejected; it returned {type(reply).__name__}: {reply}")
