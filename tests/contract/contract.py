"""The protos as the contract tests read them: their descriptors, with our annotations."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType

from billing.options.v1 import options_pb2
from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FileDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)

from contract.descriptors import comments
from contract.methods import descriptor_set


def proto_files() -> list[FileDescriptor]:
    """Every proto file of ours; also those that say what we and outside systems tell each other."""
    names = [file.name for file in descriptor_set().file if file.package.startswith(("billing.", "platform."))]
    for name in names:
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    return [descriptor_pool.Default().FindFileByName(name) for name in names]


def services() -> list[ServiceDescriptor]:
    """Every service of ours; those that outside systems serve are not."""
    ours = [file for file in proto_files() if file.package.startswith("billing.")]
    return [service for file in ours for service in file.services_by_name.values()]


def methods() -> list[MethodDescriptor]:
    return [method for service in services() for method in service.methods]


def messages() -> list[Descriptor]:
    """Every message of ours, nested ones included, but for the entries of maps."""
    return [message for file in proto_files() for message in _nested(file.message_types_by_name.values())]


def _nested(found: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for message in found:
        if not message.GetOptions().map_entry:
            yield message
            yield from _nested(message.nested_types)


def enums() -> list[EnumDescriptor]:
    """Every enum of ours."""
    top = [enum for file in proto_files() for enum in file.enum_types_by_name.values()]
    return top + [enum for message in messages() for enum in message.enum_types]


def reasons() -> dict[str, str]:
    """Every reason, and the gRPC code that goes with it. One that several services have means the same in each."""
    found: dict[str, tuple[str, str]] = {}
    for enum in enums():
        for value in enum.values if enum.name == "ErrorReason" else ():
            told = comments().get(f"{enum.full_name}.{value.name}", "")
            means = value.GetOptions().Extensions[options_pb2.code], told
            assert not value.number or found.setdefault(value.name, means) == means, value.name
    return {name: code for name, (code, _) in found.items()}


def reasons_of(package: str) -> set[str]:
    """The reasons of one package, "billing.budgets.v1"."""
    found = [enum for enum in enums() if enum.full_name == f"{package}.ErrorReason"]
    return {value.name for enum in found for value in enum.values if value.number}


def permission(method: MethodDescriptor) -> str:
    text: str = method.GetOptions().Extensions[options_pb2.permission]
    return text


def errors(method: MethodDescriptor) -> list[str]:
    return list(method.GetOptions().Extensions[options_pb2.errors])


def route(method: MethodDescriptor) -> tuple[str, str] | None:
    """The verb and path of its REST route; None where it has none."""
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return None
    rule = options.Extensions[annotations_pb2.http]
    verb: str = rule.WhichOneof("pattern")
    return verb.upper(), getattr(rule, verb)


def room(method: MethodDescriptor) -> str:
    """The service that has it: "budgets"."""
    return str(method.full_name.split(".")[1])


def modules(service: str, part: str) -> list[ModuleType]:
    """A part of the service: a module, or all of a package when it has grown."""
    module = importlib.import_module(f"services.{service}.{part}")
    inside = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{module.__name__}.")
    return [module, *(importlib.import_module(found.name) for found in inside)]
