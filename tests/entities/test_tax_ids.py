"""Validation of tax ids, currencies and countries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import InvalidFields
from services.entities import service
from services.entities.service.tax_ids import TAX_IDS
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import refusal

EU = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
EXAMPLES = [(country, example) for country, kinds in TAX_IDS.items() for _, example in kinds]


def problem(country: str, tax_id: str) -> str:
    """The error message for a tax id. Fails if it is accepted."""
    with pytest.raises(InvalidFields) as error:
        service.tax_ids.check(country, tax_id)
    [violation] = error.value.violations
    assert (violation.field, violation.rule) == ("tax_id", "known.tax_id")
    return violation.description


class TestTaxIds:
    @pytest.mark.parametrize(("country", "example"), EXAMPLES)
    def test_every_example_is_accepted(self, country: str, example: str) -> None:
        service.tax_ids.check(country, example)

    def test_supported_countries(self) -> None:
        assert not {*EU.split(), "GB", "US", "CH", "NO"} - TAX_IDS.keys()

    @pytest.mark.parametrize(
        ("country", "tax_id"),
        [
            ("DE", "DE123456789"), ("DE", "FR40303265045"), ("FR", "FR84323140391"), ("GB", "GB802311781"),
            ("US", "07-1144442"), ("CH", "CHE-100.155.213"), ("IT", "00743110158"), ("ES", "ESA58818502"),
            ("NL", "NL123456789B90"), ("DE", "x"), ("DE", "ＤＥ１"),
        ],
    )  # fmt: skip
    def test_wrong_check_digit_form_or_country_is_refused(self, country: str, tax_id: str) -> None:
        message = problem(country, tax_id)
        assert repr(tax_id) in message
        assert all(example in message for _, example in TAX_IDS[country])

    def test_wrong_length_is_refused(self) -> None:
        for country in ("DE", "FR", "GB", "US", "CH"):
            kind, example = TAX_IDS[country][0]
            assert kind
            problem(country, example[:-1])
            problem(country, f"{example}0")

    def test_empty_ids_and_unsupported_countries_are_accepted(self) -> None:
        service.tax_ids.check("DE", "")
        service.tax_ids.check("KP", "whatever it is")

    @given(st.sampled_from(sorted(TAX_IDS)), st.text(max_size=40))
    def test_any_text_is_accepted_or_refused(self, country: str, text: str) -> None:
        try:
            service.tax_ids.check(country, text)
        except InvalidFields as error:
            assert [violation.field for violation in error.violations] == ["tax_id"]


class TestEntities:
    async def test_invalid_number_is_refused_with_an_example(self, api: EntitiesApi) -> None:
        error = await refusal(api.create_entity(country_code="DE", tax_id="DE123456789"))
        assert (error.reason, error.rules) == ("INVALID_FIELDS", {"tax_id": "known.tax_id"})
        assert "such as DE136695976" in error.fields["tax_id"]
        assert await api.entities() == []

    async def test_number_is_stored_as_given(self, api: EntitiesApi) -> None:
        assert (await api.create_entity(country_code="CH", tax_id="CHE 107787577 MWST")).tax_id == "CHE 107787577 MWST"
        assert (await api.create_entity("US", country_code="US", tax_id="91-1144442")).tax_id == "91-1144442"

    async def test_number_must_match_the_country_after_an_update(self, api: EntitiesApi) -> None:
        entity = await api.create_entity(country_code="DE", tax_id="DE111111125")
        for given_ in ({"country_code": "FR"}, {"tax_id": "FR40303265045"}):
            assert (await refusal(api.update(entity, **given_))).rules == {"tax_id": "known.tax_id"}
        both = await api.update(entity, country_code="FR", tax_id="FR40303265045")
        assert (both.country_code, both.tax_id) == ("FR", "FR40303265045")

    async def test_unknown_currency_and_country_are_refused(self, api: EntitiesApi) -> None:
        error = await refusal(api.create_entity(currency_code="XYZ", country_code="XX", tax_id="1"))
        assert error.rules == {"currency_code": "known.currency_code", "country_code": "known.country_code"}
