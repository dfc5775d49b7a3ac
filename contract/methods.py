"""The RPCs of the contract with our annotations, read from the generated descriptor set."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from billing.options.v1 import options_pb2
from google.protobuf import descriptor_pb2

_RETRY_SAFE = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS, descriptor_pb2.MethodOptions.IDEMPOTENT
_PACKAGE_PREFIXES = "billing.", "platform."
"""Packages whose RPCs we call: our own, and those of outside systems."""
COMMON_APIS = frozenset({"operations", "audit"})
"""APIs that every service implements."""


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC of the contract, or of an outside system."""

    grpc_service: str
    """Full name of the gRPC service, for example "billing.budgets.v1.BudgetService"."""
    name: str
    service: str
    """The service that implements it, for example "budgets"; one of COMMON_APIS if all do."""
    request: str
    """Full name of the request message; each RPC has its own."""
    keyed: bool
    """True if the request has a `request_id`, its idempotency key."""
    retry_safe: bool
    """True if a retry has no further effect: reads, and writes with an idempotency key."""

    @property
    def full_name(self) -> str:
        """The name as in OpenTelemetry's `rpc.method`: "billing.budgets.v1.LedgerService/Charge"."""
        return f"{self.grpc_service}/{self.name}"


@lru_cache(maxsize=1)
def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """Return every descriptor of the contract with its imports and comments, as protos/generate.py wrote them."""
    generated = Path(options_pb2.__file__).parents[3] / "billing.binpb"
    return descriptor_pb2.FileDescriptorSet.FromString(generated.read_bytes())


@lru_cache(maxsize=1)
def methods() -> dict[str, Method]:
    """Return every RPC by the full name of its request message."""
    return {method.request: method for method in _read_methods()}


def _read_methods() -> Iterator[Method]:
    files = [file for file in descriptor_set().file if file.package.startswith(_PACKAGE_PREFIXES)]
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
                    grpc_service=f"{file.package}.{service.name}",
                    name=method.name,
                    service=file.package.split(".")[1],
                    request=method.input_type[1:],
                    keyed=method.input_type in keyed,
                    retry_safe=method.input_type in keyed or method.options.idempotency_level in _RETRY_SAFE,
                )
