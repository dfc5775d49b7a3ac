"""Fingerprints of requests with an idempotency key: equal numbers are the same input, in every RPC."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message

from contract.descriptors import comments
from kit import idempotency
from tests.contract import contract

_MONEY = "billing.type.v1.Money"
DECIMALS = {"quantity", "rate", "weight"}
"""The text fields of requests that contain a decimal number."""


def paths_of(descriptor: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of fields to each Money and each decimal text of a message."""
    for field in descriptor.fields:
        if field.name in DECIMALS and field.type == field.TYPE_STRING:
            yield (field,)
        if field.message_type is None or field.message_type.full_name in above:
            continue
        if field.message_type.full_name == _MONEY:
            yield (field,)
        else:
            for path in paths_of(field.message_type, (*above, descriptor.full_name)):
                yield (field, *path)


def request_with(descriptor: Any, path: tuple[Any, ...], amount: str) -> Message:
    """Return a request in which only the number at the path is set."""
    request: Any = message_factory.GetMessageClass(descriptor)()
    message = request
    for field in path:
        if field.message_type is None:
            setattr(message, field.name, amount)
            return request  # type: ignore[no-any-return]  # made from a descriptor
        value = getattr(message, field.name)
        message = value.add() if field.is_repeated else value
    message.currency_code, message.amount = "EUR", amount
    return request  # type: ignore[no-any-return]  # made from a descriptor


NUMBERS = [
    (method.input_type, path)
    for method in contract.methods()
    for path in paths_of(method.input_type)
    if "request_id" in method.input_type.fields_by_name
]
KEYED = [
    pytest.param(descriptor, path, id=f"{descriptor.name}.{'.'.join(field.name for field in path)}")
    for descriptor, path in NUMBERS
]


@pytest.mark.parametrize(("descriptor", "path"), KEYED)
def test_equal_numbers_have_one_fingerprint(descriptor: Any, path: tuple[Any, ...]) -> None:
    prints = [
        idempotency.fingerprint(request_with(descriptor, path, amount), "alice")
        for amount in ("10.00", "10.0", "10", "010.00", "10.01", "ten")
    ]
    assert prints[:4] == [prints[0]] * 4
    assert len(set(prints)) == 3


def test_requests_with_numbers_were_found() -> None:
    assert len(NUMBERS) > 10
    assert {path[-1].name for _, path in NUMBERS} >= DECIMALS


def test_all_decimal_texts_are_known() -> None:
    fields = {field for _, path in NUMBERS for field in path}
    messages = {field.containing_type for field in fields} | {descriptor for descriptor, _ in NUMBERS}
    documented = {
        field.name
        for message in messages
        for field in message.fields
        if field.type == field.TYPE_STRING and "decimal string" in comments().get(field.full_name, "")
    }
    assert documented - {"amount"} <= DECIMALS
