"""Every bad field is reported, at its place, with what is allowed."""

from typing import Any

import pytest
from billing.approvals.v1.approval_pb2 import Approval, ApprovalAction
from billing.approvals.v1.approval_service_pb2 import ActOnApprovalRequest, CreateApprovalRequest
from billing.budgets.v1.ledger_service_pb2 import ChargeRequest
from billing.entities.v1.entity_pb2 import Address, Entity
from billing.entities.v1.entity_service_pb2 import CreateEntityRequest
from billing.type.v1.money_pb2 import Money

from contract import validation
from kit import ids
from kit.errors import InvalidFields
from tests.kit.probe import DoRequest, Line


def found(request: Any) -> dict[str, str]:
    """What is wrong with the fields of the request."""
    try:
        validation.check(request)
    except InvalidFields as refused:
        assert len({violation.field for violation in refused.violations}) == len(refused.violations)
        return {violation.field: violation.description for violation in refused.violations}
    return {}


def euros(amount: str, currency_code: str = "EUR") -> Money:
    return Money(currency_code=currency_code, amount=amount)


class TestAll:
    def test_a_good_request_passes(self) -> None:
        good = DoRequest(
            id=ids.BUDGET.format(ids.new()), name="Büro", amount=euros("1.00"), lines=[Line(amount=euros("-0.50"))],
            metadata={"team": "a"}, due_date="2028-02-29", time_zone="Europe/Berlin", country_code="DE",
            currency_code="JPY",
        )  # fmt: skip
        assert found(good) == {}
        assert found(DoRequest()) == {}

    def test_all_bad_fields_are_reported_at_once_each_at_its_place(self) -> None:
        bad = DoRequest(
            id="x", name="n" * 21, amount=euros("1.234"), metadata={"team": "too long"}, due_date="2027-02-29",
            time_zone="Mars/Base", country_code="ZZ", currency_code="XXY",
            lines=[Line(), Line(amount=euros("1", "QQQ"), due_date="yesterday", note="too long")],
        )  # fmt: skip
        assert set(found(bad)) == {
            "id", "name", "amount.amount", 'metadata["team"]', "due_date", "time_zone", "country_code", "currency_code",
            "lines[1].amount.currency_code", "lines[1].due_date", "lines[1].note",
        }  # fmt: skip

    def test_each_rule_is_named(self) -> None:
        with pytest.raises(InvalidFields) as refused:
            validation.check(DoRequest(name="n" * 21, amount=euros("1.234"), time_zone="x"))
        rules = {violation.field: violation.rule for violation in refused.value.violations}
        assert rules == {"name": "string.max_len", "amount.amount": "money.amount", "time_zone": "known.time_zone"}

    def test_of_an_enum_the_names_are_told(self) -> None:
        told = found(CreateEntityRequest(entity_type=99))  # type: ignore[arg-type]  # which a newer client may send
        assert told["entity_type"] == "must be one of HOLDING, SUBSIDIARY, DIVISION, BRANCH"
        assert found(CreateEntityRequest())["entity_type"] == told["entity_type"]

    def test_of_an_enum_what_is_refused_here_is_not_named(self) -> None:
        asked = CreateApprovalRequest(request_type=Approval.CONTRACT)
        allowed = "PURCHASE, BUDGET_INCREASE, BUDGET_OVERSPEND, INVOICE, DISPUTE_RESOLUTION, OTHER"
        assert found(asked)["request_type"] == f"must be one of {allowed}"
        done = ActOnApprovalRequest(id=ids.APPROVAL.format(ids.new()), action=ApprovalAction.EXPIRE)
        allowed = "APPROVE, REJECT, REQUEST_CHANGES, COMMENT, DELEGATE, ESCALATE, ADD_APPROVER"
        assert found(done) == {"action": f"must be one of {allowed}"}

    def test_a_pattern_comes_with_an_example(self) -> None:
        told = found(DoRequest(amount=Money(currency_code="Euro", amount="1,00")))
        assert told["amount.currency_code"] == 'must be a text such as "EUR" that matches ^[A-Z]{3}$'
        assert told["amount.amount"].startswith('must be a text such as "1250.00" that matches ')

    def test_a_request_of_ours_lists_all_that_is_missing(self) -> None:
        assert set(found(CreateEntityRequest())) == {
            "code", "legal_name", "entity_type", "currency_code", "country_code",
        }  # fmt: skip

    def test_nested_address_and_labels(self) -> None:
        bad = CreateEntityRequest(
            code="A", legal_name="A", entity_type=Entity.HOLDING, currency_code="EUR", country_code="DE",
            metadata={"k": "v" * 501}, tax_rate_bp=10_001, address=Address(country_code="Germany"),
        )  # fmt: skip
        assert set(found(bad)) == {'metadata["k"]', "tax_rate_bp", "address.country_code"}


class TestIds:
    def test_the_id_of_another_kind_says_of_which(self) -> None:
        text = found(ChargeRequest(id=ids.ENTITY.format(ids.new()), amount=euros("1"), request_id="k"))["id"]
        assert "must be the id of a budget" in text
        assert "this is the id of an entity" in text

    @pytest.mark.parametrize("id", ["bud_", "bud_1", "BUD_" + "0" * 32, "bud_" + "G" * 32, "bud_" + "0" * 32 + "\n"])
    def test_what_is_no_id_says_how_one_looks(self, id: str) -> None:
        assert "bud_ and 32 hexadecimal digits" in found(DoRequest(id=id))["id"]


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
    def test_the_wrong_part_is_named(self, amount: str, currency: str, field: str) -> None:
        assert field in found(DoRequest(amount=euros(amount, currency)))

    @pytest.mark.parametrize(
        ("amount", "currency"), [("1.23", "EUR"), ("1", "JPY"), ("1.234", "BHD"), ("-1.20", "EUR")]
    )
    def test_what_the_currency_has_is_taken(self, amount: str, currency: str) -> None:
        assert found(DoRequest(amount=euros(amount, currency))) == {}

    @pytest.mark.parametrize("amount", ["0", "0.00", "-1.00"])
    def test_a_charge_is_above_zero(self, amount: str) -> None:
        bad = ChargeRequest(id=ids.BUDGET.format(ids.new()), amount=euros(amount), request_id="k")
        assert found(bad) == {"amount": "must be above zero"}


class TestWhatTheWorldHas:
    @pytest.mark.parametrize(
        "day",
        ["2027-02-29", "2026-13-01", "2026-00-10", "2026-1-1", "20260101", "2026-W01-1", "1.1.2026", "0000-01-01"],
    )
    def test_days(self, day: str) -> None:
        assert "YYYY-MM-DD" in found(DoRequest(due_date=day))["due_date"]

    # "localtime" is a zone on some machines, and another one on each
    @pytest.mark.parametrize("zone", ["Mars/Base", "berlin", "../../etc/passwd", "Europe/", "UTC+1", "localtime"])
    def test_zones(self, zone: str) -> None:
        assert "IANA" in found(DoRequest(time_zone=zone))["time_zone"]

    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"])
    def test_good_zones(self, zone: str) -> None:
        assert found(DoRequest(time_zone=zone)) == {}

    @pytest.mark.parametrize("country", ["ZZ", "de", "DEU", "EU"])
    def test_countries(self, country: str) -> None:
        assert "ISO 3166-1" in found(DoRequest(country_code=country))["country_code"]


class TestText:
    def test_what_the_database_cannot_hold_is_refused_wherever_it_stands(self) -> None:
        bad = DoRequest(
            name="a\0b", etag="\0", request_id="\0", labels=["fine", "\0"], metadata={"k": "\0"},
            lines=[Line(note="\0")],
        )  # fmt: skip
        assert set(found(bad)) == {"name", "etag", "request_id", "labels[1]", 'metadata["k"]', "lines[0].note"}
        assert set(found(DoRequest(metadata={"\0": "v"}))) == {"metadata"}
