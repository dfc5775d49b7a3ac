"""Dates and times of requests have bounds, in every RPC and in every event that is consumed."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.timestamp_pb2 import Timestamp

from contract import validation
from kit.errors import InvalidFields
from tests.contract import contract

FIRST, LAST = "1990-01-01", "2199-12-31"


def paths_of(descriptor: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of fields to each date and time of a message."""
    for field in descriptor.fields:
        nested = field.message_type
        if nested is None:
            if field.type == field.TYPE_STRING and field.name.endswith("_date"):
                yield (field,)
        elif nested.full_name == "google.protobuf.Timestamp":
            yield (field,)
        elif nested.full_name not in above and not nested.GetOptions().map_entry:
            for path in paths_of(nested, (*above, descriptor.full_name)):
                yield (field, *path)


INPUTS = [method.input_type for method in contract.methods()] + [
    message for message in contract.messages() if message.full_name.endswith(".UsageRecorded")
]
FIELDS = [
    pytest.param(descriptor, path, id=f"{descriptor.name}.{'.'.join(field.name for field in path)}")
    for descriptor in {each.full_name: each for each in INPUTS}.values()
    for path in paths_of(descriptor)
]


def violation_of(descriptor: Any, path: tuple[Any, ...], day: str) -> tuple[str, str] | None:
    """The rule and the text of the violation of a request in which only the field at the path is set; None if valid."""
    request: Any = message_factory.GetMessageClass(descriptor)()
    message, name = request, ""
    for field in path:
        name += f".{field.name}" if name else field.name
        if field.message_type is None:
            setattr(message, field.name, day)
            break
        value = getattr(message, field.name)
        if isinstance(value, Timestamp):
            value.FromJsonString(f"{day}T00:00:00Z")
        message = value.add() if field.is_repeated else value
        name += "[0]" if field.is_repeated else ""
    try:
        validation.check(request)
    except InvalidFields as error:
        texts = {each.field: (each.rule, each.description) for each in error.violations}
        return texts.get(name)
    return None


@pytest.mark.parametrize(("descriptor", "path"), FIELDS)
def test_date_outside_of_the_bounds_is_refused_with_field_rule_and_bounds(
    descriptor: Any, path: tuple[Any, ...]
) -> None:
    for day in ("1900-01-01", "1989-12-31", "2200-01-01"):
        problem = violation_of(descriptor, path, day)
        assert problem
        assert problem[0].startswith("known.")
        assert "from the year 1990 to 2199" in problem[1]
    assert violation_of(descriptor, path, FIRST) is None
    assert violation_of(descriptor, path, LAST) is None


def test_many_dates_were_found() -> None:
    assert len(FIELDS) > 40


def test_every_text_with_the_form_of_a_date_is_known_by_its_name() -> None:
    for message in contract.messages():
        for field in message.fields:
            if field.type == field.TYPE_STRING and "[0-9]{4}-[0-9]{2}-[0-9]{2}" in str(field.GetOptions()):
                assert field.name.endswith("_date"), field.full_name
