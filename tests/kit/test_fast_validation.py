"""What the fast checks accept is valid for protovalidate too, and they support the rules of nearly every request."""

import random
from typing import Any

import protovalidate
import pytest
from billing.budgets.v1 import ledger_service_pb2 as budgets_pb
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from contract import fast_validation
from contract.field_rules import rules_of
from tests.contract import contract
from tests.kit.probe import DoRequest

REQUESTS = list({method.input_type.full_name: method.input_type for method in contract.methods()}.values())
VALIDATOR = protovalidate.Validator()
TEXTS = (
    "", "a", "0", "1.25", "0.00", "-1", "1e3", "1\n", "EUR", "eur", "EURO", "EUR\n", "DE", "key-1", "key 1", "ä",
    "x" * 41, "x" * 129, "x" * 501, "x" * 2001,
    "2026-02-30", "2026-03-01", "2026-03-01\n", "sha256:" + "a" * 64, "a" * 64,
    *(f"{prefix}_{'a' * 32}" for prefix in ("bud", "ent", "dep", "hld", "ety", "alr", "con", "amd", "alc", "arl")),
    "bud_" + "A" * 32, "bud_" + "a" * 32 + "\n", "Europe/Berlin", "ACME-DE", "1.084200000000001",
)  # fmt: skip
NUMBERS = (-1, 0, 1, 2, 12, 13, 50, 1000, 1001, 10_000, 10_001, 2**31 - 1)
PROBABILITY_SET = 0.8


def message_of(descriptor: Descriptor, chance: random.Random) -> Any:
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if chance.random() > PROBABILITY_SET:
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            values = [value(field, chance) for _ in range(chance.choice((0, 1, 2, 5)))]
            getattr(message, field.name).extend(values)
        elif field.message_type:
            getattr(message, field.name).CopyFrom(value(field, chance))
        else:
            setattr(message, field.name, value(field, chance))
    return message


def value(field: FieldDescriptor, chance: random.Random) -> Any:
    if field.message_type:
        return message_of(field.message_type, chance)
    if field.enum_type:
        return chance.choice([*field.enum_type.values_by_number, 99])
    if field.type == FieldDescriptor.TYPE_STRING:
        example = _example(field)
        return chance.choice([example] * 20 + list(TEXTS)) if example else chance.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return chance.random() < 0.5
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"x"
    return chance.choice(NUMBERS)


def _example(field: FieldDescriptor) -> str:
    for rules in (rules_of(field), rules_of(field).repeated.items):
        if rules.string.example:
            return str(rules.string.example[0])
    return {"currency_code": "EUR", "amount": "1.25"}.get(field.name, "")


@pytest.mark.parametrize("descriptor", [*REQUESTS, DoRequest.DESCRIPTOR], ids=lambda descriptor: descriptor.full_name)
def test_accepted_messages_break_no_rule(descriptor: Descriptor) -> None:
    is_valid = fast_validation.compile_checks(descriptor)
    chance = random.Random(descriptor.full_name)  # noqa: S311 - the same messages each time
    messages = [message_of(descriptor, chance) for _ in range(150)]
    for message in messages:
        if is_valid and is_valid(message):
            assert not VALIDATOR.collect_violations(message), message


def charge(**fields: Any) -> budgets_pb.ChargeRequest:
    request = budgets_pb.ChargeRequest(id=f"bud_{'a' * 32}", request_id="key-1")
    request.amount.currency_code, request.amount.amount = "EUR", "1.25"
    for name, text in fields.items():
        setattr(request, name, text)
    return request


def test_valid_charges_need_no_validator() -> None:
    is_valid = fast_validation.compile_checks(budgets_pb.ChargeRequest.DESCRIPTOR)
    assert is_valid
    assert is_valid(charge())
    zero = charge()
    zero.amount.amount = "0.00"
    assert not is_valid(zero)
    batch = fast_validation.compile_checks(budgets_pb.BatchChargeRequest.DESCRIPTOR)
    assert batch
    assert batch(budgets_pb.BatchChargeRequest(charges=[charge(), charge()]))
    assert not batch(budgets_pb.BatchChargeRequest(charges=[charge(), charge(id="bud_x")]))


@pytest.mark.parametrize(
    "fields",
    [{"id": ""}, {"id": f"bud_{'a' * 32}\n"}, {"id": f"ent_{'a' * 32}"}, {"request_id": ""}, {"request_id": "x" * 129},
     {"description": "x" * 501}],
    ids=str,
)  # fmt: skip
def test_invalid_charge_is_left_to_the_validator(fields: dict[str, str]) -> None:
    is_valid = fast_validation.compile_checks(budgets_pb.ChargeRequest.DESCRIPTOR)
    assert is_valid
    assert not is_valid(charge(**fields))
    assert VALIDATOR.collect_violations(charge(**fields))


def test_most_requests_are_supported() -> None:
    unsupported = [descriptor.name for descriptor in REQUESTS if fast_validation.compile_checks(descriptor) is None]
    assert len(unsupported) <= len(REQUESTS) // 5, unsupported
