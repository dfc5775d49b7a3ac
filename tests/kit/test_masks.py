"""Update masks: an update changes the fields in the mask, or without a mask those that are set."""

import pytest
from billing.budgets.v1.budget_service_pb2 import UpdateBudgetRequest
from google.protobuf.field_mask_pb2 import FieldMask

from contract.masks import changed_fields
from kit.errors import InvalidFields


def mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


def test_without_mask_the_set_fields_change() -> None:
    request = UpdateBudgetRequest(id="x", etag="1", request_id="k", name="n", category="")
    assert changed_fields(request) == {"name", "category"}


def test_mask_names_the_fields_to_change() -> None:
    assert changed_fields(UpdateBudgetRequest(name="n", update_mask=mask("gl_code"))) == {"gl_code"}


def test_empty_update_changes_nothing() -> None:
    assert changed_fields(UpdateBudgetRequest(id="x")) == frozenset()


@pytest.mark.parametrize("path", ["id", "etag", "request_id", "update_mask", "state", "amount.amount", "*", "", "Name"])
def test_unchangeable_path_lists_the_allowed_ones(path: str) -> None:
    with pytest.raises(InvalidFields) as raised:
        changed_fields(UpdateBudgetRequest(update_mask=mask("name", path)))
    (violation,) = raised.value.violations
    assert violation.field == "update_mask"
    assert repr(path) in violation.description
    assert "overspend_policy" in violation.description
