"""Validation reports every invalid field with its path and with what is allowed."""

from typing import Any

import pytest
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_rule_pb2 import ApprovalRuleStep, Approver
from billing.approvals.v1.approval_rule_service_pb2 import CreateApprovalRuleRequest
from billing.approvals.v1.approval_service_pb2 import ActOnApprovalRequest, CreateApprovalRequest
from billing.budgets.v1.ledger_service_pb2 import ChargeRequest
from billing.entities.v1.cost_service_pb2 import GetDepartmentCostsRequest, SummarizeCostsRequest
from billing.entities.v1.entity_pb2 import Address, Entity
from billing.entities.v1.entity_service_pb2 import CreateEntityRequest
from billing.type.v1.money_pb2 import Money

from contract import validation
from kit import ids
from kit.errors import InvalidFields
from tests.kit.probe import DoRequest, Line


def violations_of(request: Any) -> dict[str, str]:
    """Return the error texts of the invalid fields of a request."""
    try:
        validation.check(request)
    except InvalidFields as error:
        assert len({violation.field for violation in error.violations}) == len(error.violations)
        return {violation.field: violation.description for violation in error.violations}
    return {}


def euros(amount: str, currency_code: str = "EUR") -> Money:
    return Money(currency_code=currency_code, amount=amount)


class TestFields:
    def test_valid_request_passes(self) -> None:
        valid = DoRequest(
            id=ids.BUDGET.format(ids.new()), name="Büro", amount=euros("1.00"), lines=[Line(amount=euros("-0.50"))],
            metadata={"team": "a"}, due_date="2028-02-29", time_zone="Europe/Berlin", country_code="DE",
            currency_code="JPY",
        )  # fmt: skip
        assert violations_of(valid) == {}
        assert violations_of(DoRequest()) == {}

    def test_all_invalid_fields_are_reported_with_their_path(self) -> None:
        invalid = DoRequest(
            id="x", name="n" * 21, amount=euros("1.234"), metadata={"team": "too long"}, due_date="2027-02-29",
            time_zone="Mars/Base", country_code="ZZ", currency_code="XXY",
            lines=[Line(), Line(amount=euros("1", "QQQ"), due_date="yesterday", note="too long")],
        )  # fmt: skip
        assert set(violations_of(invalid)) == {
            "id", "name", "amount.amount", 'metadata["team"]', "due_date", "time_zone", "country_code", "currency_code",
            "lines[1].amount.currency_code", "lines[1].due_date", "lines[1].note",
        }  # fmt: skip

    def test_each_violated_rule_is_named(self) -> None:
        with pytest.raises(InvalidFields) as raised:
            validation.check(DoRequest(name="n" * 21, amount=euros("1.234"), time_zone="x"))
        rules = {violation.field: violation.rule for violation in raised.value.violations}
        assert rules == {"name": "string.max_len", "amount.amount": "money.amount", "time_zone": "known.time_zone"}

    def test_enum_error_lists_the_allowed_names(self) -> None:
        violations = violations_of(CreateEntityRequest(entity_type=99))  # type: ignore[arg-type]  # a newer client may send it
        assert violations["entity_type"] == "must be one of HOLDING, SUBSIDIARY, DIVISION, BRANCH"
        assert violations_of(CreateEntityRequest())["entity_type"] == violations["entity_type"]

    def test_enum_error_omits_disallowed_names(self) -> None:
        request = CreateApprovalRequest(request_type=Approval.CONTRACT)
        allowed = "PURCHASE, BUDGET_INCREASE, BUDGET_OVERSPEND, INVOICE, DISPUTE_RESOLUTION, OTHER"
        assert violations_of(request)["request_type"] == f"must be one of {allowed}"
        done = ActOnApprovalRequest(id=ids.APPROVAL.format(ids.new()), action=ApprovalAction.EXPIRE)
        allowed = "APPROVE, REJECT, REQUEST_CHANGES, COMMENT, DELEGATE, ESCALATE, ADD_APPROVER"
        assert violations_of(done) == {"action": f"must be one of {allowed}"}

    def test_pattern_error_has_an_example(self) -> None:
        violations = violations_of(DoRequest(amount=Money(currency_code="Euro", amount="1,00")))
        assert violations["amount.currency_code"] == 'must be a text such as "EUR" that matches ^[A-Z]{3}$'
        assert violations["amount.amount"].startswith('must be a text such as "1250.00" that matches ')

    def test_list_of_allowed_texts_reads_like_that_of_an_enum(self) -> None:
        step = ApprovalRuleStep(name="Finance", approvers=[Approver(role="viewer")])
        violations = violations_of(CreateApprovalRuleRequest(name="Purchases", steps=[step]))
        allowed = "billing_admin, finance, department_manager, approver"
        assert violations == {"steps[0].approvers[0].role": f"must be one of {allowed}"}

    def test_missing_choice_lists_the_fields_to_choose_from(self) -> None:
        step = ApprovalRuleStep(name="Finance", approvers=[Approver()])
        violations = violations_of(CreateApprovalRuleRequest(name="Purchases", steps=[step]))
        choices = "user_id, role, department_manager, entity_controller, manager_of_requester"
        assert violations == {"steps[0].approvers[0]": f"must have exactly one of {choices}"}

    def test_rule_about_several_fields_has_no_field_in_its_message(self) -> None:
        department = ids.DEPARTMENT.format(ids.new())
        period = GetDepartmentCostsRequest(id=department, start_date="2026-02-01", end_date="2026-01-01")
        with pytest.raises(InvalidFields) as raised:
            validation.check(period)
        assert raised.value.message == "Invalid request: end_date must be after start_date"

    @pytest.mark.parametrize("request_type", [GetDepartmentCostsRequest, SummarizeCostsRequest])
    def test_order_of_dates_is_checked_only_if_both_are_set(self, request_type: Any) -> None:
        assert not {"", "start_date"} & set(violations_of(request_type(start_date="2026-02-01")))
        assert not {"", "end_date"} & set(violations_of(request_type(end_date="2026-02-01")))

    def test_missing_required_fields_are_all_listed(self) -> None:
        assert set(violations_of(CreateEntityRequest())) == {
            "code", "legal_name", "entity_type", "currency_code", "country_code",
        }  # fmt: skip

    def test_nested_fields_and_map_values_are_checked(self) -> None:
        invalid = CreateEntityRequest(
            code="A", legal_name="A", entity_type=Entity.HOLDING, currency_code="EUR", country_code="DE",
            metadata={"k": "v" * 501}, tax_rate_bp=10_001, address=Address(country_code="Germany"),
        )  # fmt: skip
        assert set(violations_of(invalid)) == {'metadata["k"]', "tax_rate_bp", "address.country_code"}


class TestIds:
    def test_id_of_another_kind_is_named(self) -> None:
        text = violations_of(ChargeRequest(id=ids.ENTITY.format(ids.new()), amount=euros("1"), request_id="k"))["id"]
        assert "must be the id of a budget" in text
        assert "this is the id of an entity" in text

    @pytest.mark.parametrize("id", ["bud_", "bud_1", "BUD_" + "0" * 32, "bud_" + "G" * 32, "bud_" + "0" * 32 + "\n"])
    def test_malformed_id_error_shows_the_format(self, id: str) -> None:
        assert "bud_ and 32 hexadecimal digits" in violations_of(DoRequest(id=id))["id"]


class TestMoney:
    @pytest.mark.parametrize(
        ("amount", "currency", "field"),
        [
            ("1.234", "EUR", "amount.amount"),
            ("1.0", "JPY", "amount.amount"),
            ("1.2345", "BHD", "amount.amount"),
            ("1e3", "EUR", "amount.amount"),
            ("NaN", "EUR", "amount.amount"),
            ("1,000.00", "EUR", "amount.amount"),
            ("", "EUR", "amount.amount"),
            ("12345678901234", "EUR", "amount.amount"),
            ("1.00", "", "amount.currency_code"),
            ("1.00", "eur", "amount.currency_code"),
            ("1.00", "EURO", "amount.currency_code"),
            ("1.00", "ABC", "amount.currency_code"),
        ],
    )
    def test_invalid_part_of_money_is_named(self, amount: str, currency: str, field: str) -> None:
        assert field in violations_of(DoRequest(amount=euros(amount, currency)))

    @pytest.mark.parametrize(
        ("amount", "currency"), [("1.23", "EUR"), ("1", "JPY"), ("1.234", "BHD"), ("-1.20", "EUR")]
    )
    def test_digits_of_the_currency_are_accepted(self, amount: str, currency: str) -> None:
        assert violations_of(DoRequest(amount=euros(amount, currency))) == {}

    @pytest.mark.parametrize("amount", ["0", "0.00", "-1.00"])
    def test_charge_must_be_above_zero(self, amount: str) -> None:
        invalid = ChargeRequest(id=ids.BUDGET.format(ids.new()), amount=euros(amount), request_id="k")
        assert violations_of(invalid) == {"amount": "must be above zero"}


class TestConventions:
    @pytest.mark.parametrize(
        "day",
        ["2027-02-29", "2026-13-01", "2026-00-10", "2026-1-1", "20260101", "2026-W01-1", "1.1.2026", "0000-01-01"],
    )
    def test_invalid_dates_are_rejected(self, day: str) -> None:
        assert "YYYY-MM-DD" in violations_of(DoRequest(due_date=day))["due_date"]

    # "localtime" is a zone on some machines, and another one on each
    @pytest.mark.parametrize("zone", ["Mars/Base", "berlin", "../../etc/passwd", "Europe/", "UTC+1", "localtime"])
    def test_unknown_time_zones_are_rejected(self, zone: str) -> None:
        assert "IANA" in violations_of(DoRequest(time_zone=zone))["time_zone"]

    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"])
    def test_known_time_zones_are_accepted(self, zone: str) -> None:
        assert violations_of(DoRequest(time_zone=zone)) == {}

    @pytest.mark.parametrize("country", ["ZZ", "de", "DEU", "EU"])
    def test_unknown_countries_are_rejected(self, country: str) -> None:
        assert "ISO 3166-1" in violations_of(DoRequest(country_code=country))["country_code"]


class TestText:
    def test_nul_characters_are_rejected_in_every_text(self) -> None:
        invalid = DoRequest(
            name="a\0b", etag="\0", request_id="\0", labels=["fine", "\0"], metadata={"k": "\0"},
            lines=[Line(note="\0")],
        )  # fmt: skip
        assert set(violations_of(invalid)) == {
            "name",
            "etag",
            "request_id",
            "labels[1]",
            'metadata["k"]',
            "lines[0].note",
        }
        assert set(violations_of(DoRequest(metadata={"\0": "v"}))) == {"metadata"}
