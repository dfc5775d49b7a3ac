"""The descriptors of the protos with our annotations, for the contract tests."""

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
    """Return every proto file of ours, including those of outside systems."""
    names = [file.name for file in descriptor_set().file if file.package.startswith(("billing.", "platform."))]
    for name in names:
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    return [descriptor_pool.Default().FindFileByName(name) for name in names]


def services() -> list[ServiceDescriptor]:
    """Return every gRPC service that we implement."""
    ours = [file for file in proto_files() if file.package.startswith("billing.")]
    return [service for file in ours for service in file.services_by_name.values()]


def methods() -> list[MethodDescriptor]:
    return [method for service in services() for method in service.methods]


def messages() -> list[Descriptor]:
    """Return every message of ours, including nested ones, without map entries."""
    return [message for file in proto_files() for message in _nested(file.message_types_by_name.values())]


def _nested(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from _nested(message.nested_types)


def enums() -> list[EnumDescriptor]:
    """Return every enum of ours."""
    top = [enum for file in proto_files() for enum in file.enum_types_by_name.values()]
    return top + [enum for message in messages() for enum in message.enum_types]


def reasons() -> dict[str, str]:
    """Return the gRPC code of every error reason. A reason of several services must have the same code and comment."""
    definitions: dict[str, tuple[str, str]] = {}
    for enum in enums():
        for value in enum.values if enum.name == "ErrorReason" else ():
            comment = comments().get(f"{enum.full_name}.{value.name}", "")
            definition = value.GetOptions().Extensions[options_pb2.code], comment
            assert not value.number or definitions.setdefault(value.name, definition) == definition, value.name
    return {name: code for name, (code, _) in definitions.items()}


def reasons_of(package: str) -> set[str]:
    """Return the reasons of one package, for example "billing.budgets.v1"."""
    reason_enums = [enum for enum in enums() if enum.full_name == f"{package}.ErrorReason"]
    return {value.name for enum in reason_enums for value in enum.values if value.number}


def permission(method: MethodDescriptor) -> str:
    text: str = method.GetOptions().Extensions[options_pb2.permission]
    return text


def errors(method: MethodDescriptor) -> list[str]:
    return list(method.GetOptions().Extensions[options_pb2.errors])


def route(method: MethodDescriptor) -> tuple[str, str] | None:
    """Return the verb and path of the REST route; None without one."""
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return None
    rule = options.Extensions[annotations_pb2.http]
    verb: str = rule.WhichOneof("pattern")
    return verb.upper(), getattr(rule, verb)


def service_of(method: MethodDescriptor) -> str:
    """Return the service that implements the method, for example "budgets"."""
    return str(method.full_name.split(".")[1])


def modules(service: str, part: str) -> list[ModuleType]:
    """Return the modules of a package of the service."""
    module = importlib.import_module(f"services.{service}.{part}")
    inside = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{module.__name__}.")
    return [module, *(importlib.import_module(each.name) for each in inside)]
