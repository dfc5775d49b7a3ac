"""What an update changes: what the mask names, or else what is given."""

import pytest
from billing.budgets.v1.budget_service_pb2 import UpdateBudgetRequest
from google.protobuf.field_mask_pb2 import FieldMask

from contract.masks import changed_fields
from kit.errors import InvalidFields


def mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


def test_without_a_mask_it_is_what_is_given() -> None:
    request = UpdateBudgetRequest(id="x", etag="1", request_id="k", name="n", category="")
    assert changed_fields(request) == {"name", "category"}


def test_with_a_mask_it_is_what_the_mask_names() -> None:
    assert changed_fields(UpdateBudgetRequest(name="n", update_mask=mask("gl_code"))) == {"gl_code"}


def test_nothing_given_changes_nothing() -> None:
    assert changed_fields(UpdateBudgetRequest(id="x")) == frozenset()


@pytest.mark.parametrize("path", ["id", "etag", "request_id", "update_mask", "state", "amount.amount", "*", "", "Name"])
def test_what_cannot_be_changed_is_named_with_what_can(path: str) -> None:
    with pytest.raises(InvalidFields) as refused:
        changed_fields(UpdateBudgetRequest(update_mask=mask("name", path)))
    (violation,) = refused.value.violations
    assert violation.field == "update_mask"
    assert repr(path) in violation.description
    assert "overspend_policy" in violation.description
