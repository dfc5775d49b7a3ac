"""The protos as this process knows them: methods with our annotations, read from the descriptors."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from billing.options.v1 import options_pb2
from google.protobuf import descriptor_pb2

_REPEATABLE = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS, descriptor_pb2.MethodOptions.IDEMPOTENT
_CALLED = "billing.", "platform."
"""Packages whose RPCs we call: our own, and those of outside systems."""
SHARED = frozenset({"operations", "audit"})
"""Rooms that every service has."""


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of the contract, or of an outside system."""

    service: str
    """Full name of its service, "billing.budgets.v1.BudgetService"."""
    name: str
    room: str
    """The service that has it: "budgets"."""
    request: str
    """Full name of the request message; each RPC has one of its own."""
    keyed: bool
    """Whether the request has a `request_id`."""
    repeatable: bool
    """Whether sending it again does no harm: reads, and writes that bear a key."""

    @property
    def full_name(self) -> str:
        """As OpenTelemetry's `rpc.method`: "billing.budgets.v1.LedgerService/Charge"."""
        return f"{self.service}/{self.name}"


@lru_cache(maxsize=1)
def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """Every descriptor of the contract with imports and comments, as generation left them."""
    generated = Path(options_pb2.__file__).parents[3] / "billing.binpb"
    return descriptor_pb2.FileDescriptorSet.FromString(generated.read_bytes())


@lru_cache(maxsize=1)
def methods() -> dict[str, Method]:
    """Every RPC of ours, by the full name of its request message."""
    return {method.request: method for method in _read()}


def _read() -> Iterator[Method]:
    files = [file for file in descriptor_set().file if file.package.startswith(_CALLED)]
    keyed = {
        f".{file.package}.{message.name}"
        for file in files
        for message in file.message_type
        if any(field.name == "request_id" for field in message.field)
    }
    for file in files:
        for service in file.service:
            for method in service.method:
                yield Method(
                    service=f"{file.package}.{service.name}",
                    name=method.name,
                    room=file.package.split(".")[1],
                    request=method.input_type[1:],
                    keyed=method.input_type in keyed,
                    repeatable=method.input_type in keyed or method.options.idempotency_level in _REPEATABLE,
                )
