"""Billing profiles: creation, defaults of an entity, the default of the tenant, changes, and checks."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from billing.entities.v1.billing_profile_pb2 import BankAccount, BillingProfile, ElectronicAddress
from billing.entities.v1.entity_pb2 import Address
from grpc import StatusCode

from kit import ids
from kit.origin import Origin
from services.entities import domain, service, store
from services.entities.domain.parties import Party
from services.entities.errors.billing_profiles import (
    BillingProfileInactive,
    BillingProfileMissing,
    BillingProfileNotFound,
)
from services.entities.service.bank_accounts import normalize
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities, Served

UNKNOWN = "bpr_" + "0" * 32
IBAN = "DE89370400440532013000"


def prefixes_of(profile: BillingProfile) -> tuple[str, str, str]:
    return profile.invoice_prefix, profile.statement_prefix, profile.credit_note_prefix


class TestCreate:
    async def test_only_required_fields(self, profiles: BillingProfileApi) -> None:
        profile = await profiles.create("Acme")
        assert ids.BILLING_PROFILE.parse(profile.id)
        assert (profile.legal_name, profile.currency_code, profile.time_zone) == ("Acme SE", "EUR", "UTC")
        assert prefixes_of(profile) == ("INV-", "ST-", "CN-")
        assert profile.number_digits == 6
        assert (profile.cross_border_treatment, profile.state) == (BillingProfile.REVERSE_CHARGE, BillingProfile.ACTIVE)
        assert (profile.etag, profile.is_default) == ("1", True)
        assert await profiles.get(profile) == profile

    async def test_all_fields(self, profiles: BillingProfileApi, api: EntitiesApi) -> None:
        group = [(await api.create_entity(code)).id for code in ("ONE", "TWO")]
        fields: dict[str, Any] = {
            "name": "Germany", "legal_name": "Acme GmbH", "vat_id": "DE136695976", "registration_number": "HRB 1",
            "address": Address(lines=["Hauptstr. 1"], postal_code="10115", city="Berlin", country_code="DE"),
            "electronic_address": ElectronicAddress(scheme="9930", id="DE136695976"), "email": "ar@acme.example",
            "phone": "+49 30 1", "contact_name": "Ada", "currency_code": "EUR", "time_zone": "Europe/Berlin",
            "bank_account": BankAccount(holder="Acme", iban=IBAN, bic="COBADEFFXXX"), "invoice_prefix": "RE-",
            "statement_prefix": "IV-", "credit_note_prefix": "GS-", "number_digits": 4, "vat_group_entity_ids": group,
            "cross_border_treatment": BillingProfile.NOT_SUBJECT, "default_note": "Thank you",
            "payment_instructions": "30 days",
        }  # fmt: skip
        profile = await profiles.create(**fields)
        for field, value in fields.items():
            assert getattr(profile, field) == value, field

    async def test_empty_fields_get_the_legal_data_of_the_entity(
        self, profiles: BillingProfileApi, api: EntitiesApi
    ) -> None:
        entity = await api.create_entity(
            "ACME-DE", legal_name="Acme GmbH", tax_id="DE136695976", registration_number="HRB 1", currency_code="CHF",
            time_zone="Europe/Berlin", address=Address(city="Bonn"),
        )  # fmt: skip
        profile = await profiles.create("Germany", entity_id=entity.id)
        assert profile.entity_id == entity.id
        assert (profile.legal_name, profile.vat_id) == ("Acme GmbH", "DE136695976")
        assert profile.registration_number == "HRB 1"
        assert profile.address == Address(city="Bonn", country_code="DE")
        assert (profile.currency_code, profile.time_zone) == ("CHF", "Europe/Berlin")
        assert prefixes_of(profile) == ("ACME-DE-", "ACME-DE-ST-", "ACME-DE-CN-")

    async def test_given_fields_win_over_those_of_the_entity(
        self, profiles: BillingProfileApi, api: EntitiesApi
    ) -> None:
        entity = await api.create_entity("ACME-DE", tax_id="DE136695976")
        profile = await profiles.create(
            entity_id=entity.id, legal_name="Acme SARL", vat_id="FR40303265045", address=Address(country_code="FR"),
            currency_code="USD", invoice_prefix="FR-",
        )  # fmt: skip
        assert (profile.legal_name, profile.vat_id) == ("Acme SARL", "FR40303265045")
        assert profile.address.country_code == "FR"
        assert (profile.currency_code, profile.invoice_prefix) == ("USD", "FR-")

    async def test_later_changes_of_the_entity_do_not_change_the_profile(
        self, profiles: BillingProfileApi, api: EntitiesApi
    ) -> None:
        entity = await api.create_entity(legal_name="Acme GmbH")
        profile = await profiles.create(entity_id=entity.id)
        await api.update(entity, legal_name="Other GmbH", country_code="AT")
        assert await profiles.get(profile) == profile

    async def test_repeated_key_returns_same_response(self, profiles: BillingProfileApi) -> None:
        first = await profiles.create(request_id="key-1")
        assert await profiles.create(request_id="key-1") == first
        assert await profiles.names() == ["Acme"]

    async def test_unknown_entities_are_not_found(self, profiles: BillingProfileApi, api: EntitiesApi) -> None:
        missing = "ent_" + "0" * 32
        assert (await refusal(profiles.create(entity_id=missing))).reason == "ENTITY_NOT_FOUND"
        known = (await api.create_entity()).id
        error = await refusal(profiles.create(vat_group_entity_ids=[known, missing]))
        assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "VAT_GROUP_ENTITIES_NOT_FOUND")
        assert error.rules == {"vat_group_entity_ids[1]": "entity.known"}
        assert await profiles.names() == []


class TestChecks:
    @pytest.mark.parametrize(
        ("fields", "rules"),
        [
            (
                {"legal_name": "", "address": None, "currency_code": ""},
                {"legal_name": "required", "currency_code": "required", "address.country_code": "required"},
            ),
            ({"address": Address(city="Bonn")}, {"address.country_code": "required"}),
            ({"vat_id": "DE123456789"}, {"vat_id": "known.tax_id"}),
            ({"vat_id": "DE136695976", "address": Address(country_code="FR")}, {"vat_id": "known.tax_id"}),
            ({"bank_account": BankAccount(iban="DE89370400440532013001")}, {"bank_account.iban": "known.iban"}),
            ({"bank_account": BankAccount(iban=IBAN, bic="COBA")}, {"bank_account.bic": "string.pattern"}),
            ({"electronic_address": ElectronicAddress(id="x")}, {"electronic_address.scheme": "required"}),
            ({"number_digits": 2}, {"number_digits": "profile.digits"}),
            ({"email": "ada"}, {"email": "string.pattern"}),
            ({"invoice_prefix": "inv-"}, {"invoice_prefix": "string.pattern"}),
            ({"invoice_prefix": "A-", "credit_note_prefix": "A-"}, {"credit_note_prefix": "profile.prefixes"}),
            ({"currency_code": "XXX", "time_zone": "Mars"}, {
                "currency_code": "known.currency_code", "time_zone": "known.time_zone",
            }),
        ],
    )  # fmt: skip
    async def test_error_names_the_fields(
        self, profiles: BillingProfileApi, fields: dict[str, Any], rules: dict[str, str]
    ) -> None:
        error = await refusal(profiles.create(**fields))
        assert (error.reason, error.rules) == ("INVALID_FIELDS", rules)
        assert await profiles.names() == []

    async def test_iban_is_stored_without_spaces(self, profiles: BillingProfileApi) -> None:
        profile = await profiles.create(bank_account=BankAccount(iban="de89 3704 0044 0532 0130 00"))
        assert profile.bank_account.iban == IBAN
        assert normalize({"holder": "", "iban": IBAN, "bic": ""})["iban"] == IBAN


class TestPrefixes:
    async def test_prefix_of_another_profile_or_type_is_taken(self, profiles: BillingProfileApi) -> None:
        first = await profiles.create("First")
        error = await refusal(profiles.create("Second"))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "NUMBER_PREFIX_TAKEN")
        assert error.rules.keys() == {"invoice_prefix", "statement_prefix", "credit_note_prefix"}
        error = await refusal(
            profiles.create("Second", invoice_prefix="CN-", statement_prefix="S-", credit_note_prefix="C-")
        )
        assert error.rules == {"invoice_prefix": "prefix.taken"}
        second = await profiles.create("Second", invoice_prefix="B-", statement_prefix="BS-", credit_note_prefix="BC-")
        error = await refusal(profiles.update(second, invoice_prefix=first.statement_prefix))
        assert error.rules == {"invoice_prefix": "prefix.taken"}
        assert await profiles.get(second) == second

    async def test_unused_prefix_is_free_after_a_change(self, profiles: BillingProfileApi) -> None:
        first = await profiles.create("First")
        await profiles.update(first, invoice_prefix="A-", statement_prefix="AS-", credit_note_prefix="AC-")
        assert (await profiles.create("Second")).invoice_prefix == "INV-"

    async def test_prefixes_of_one_profile_can_be_exchanged(self, profiles: BillingProfileApi) -> None:
        profile = await profiles.create()
        changed = await profiles.update(profile, invoice_prefix="ST-", statement_prefix="INV-")
        assert (changed.invoice_prefix, changed.statement_prefix) == ("ST-", "INV-")

    async def test_of_concurrent_profiles_with_one_prefix_one_is_created(self, profiles: BillingProfileApi) -> None:
        attempts = (profiles.create(f"P{number}") for number in range(6))
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(result, BillingProfile) for result in results) == 1
        assert len(await profiles.names()) == 1

    @pytest.mark.parametrize(
        ("entity_prefix", "expected"),
        [("", "INV-"), ("ACME-DE", "ACME-DE-"), ("de-", "DE-"), ("DE/", "DE/"), ("-x", "X-"), ("_", "INV-")],
    )
    def test_default_prefix(self, entity_prefix: str, expected: str) -> None:
        assert domain.billing_profiles.default_prefixes(entity_prefix)["invoice_prefix"] == expected


async def create_second(profiles: BillingProfileApi, **fields: Any) -> BillingProfile:
    return await profiles.create(
        "Second", **{"invoice_prefix": "B-", "statement_prefix": "BS-", "credit_note_prefix": "BC-", **fields}
    )


class TestDefault:
    async def test_second_profile_is_not_the_default(self, profiles: BillingProfileApi) -> None:
        first, second = await profiles.create(), await create_second(profiles)
        assert ((await profiles.get(first)).is_default, second.is_default) == (True, False)

    async def test_new_default_replaces_the_old_one(self, profiles: BillingProfileApi) -> None:
        first = await profiles.create()
        second = await create_second(profiles, is_default=True)
        assert ((await profiles.get(first)).is_default, second.is_default) == (False, True)
        first = await profiles.update(first, is_default=True)
        assert (first.is_default, (await profiles.get(second)).is_default) == (True, False)

    async def test_setting_the_default_again_changes_nothing(self, profiles: BillingProfileApi) -> None:
        first = await profiles.create()
        assert await profiles.update(first, is_default=True) == first

    async def test_default_cannot_be_cleared(self, profiles: BillingProfileApi) -> None:
        first, second = await profiles.create(), await create_second(profiles)
        for change in (profiles.update(first, is_default=False), profiles.update(first, "is_default")):
            assert (await refusal(change)).rules == {"is_default": "profile.default"}
        assert await profiles.update(second, is_default=False) == second

    async def test_concurrent_moves_leave_exactly_one_default(self, profiles: BillingProfileApi) -> None:
        created = [await profiles.create("P0")]
        for number in range(1, 6):
            kinds = "invoice", "statement", "credit_note"
            prefixes = {f"{kind}_prefix": f"{kind[:2].upper()}{number}-" for kind in kinds}
            created.append(await profiles.create(f"P{number}", **prefixes))
        await asyncio.gather(*(profiles.update(profile, is_default=True) for profile in created))
        assert sum([(await profiles.get(profile)).is_default for profile in created]) == 1

    async def test_default_cannot_be_deactivated(self, profiles: BillingProfileApi) -> None:
        first = await profiles.create()
        error = await refusal(profiles.deactivate(first))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "BILLING_PROFILE_IS_DEFAULT")
        assert await profiles.get(first) == first

    async def test_inactive_profile_cannot_become_the_default(self, profiles: BillingProfileApi) -> None:
        first = await profiles.create()
        second = await profiles.deactivate(await create_second(profiles))
        error = await refusal(profiles.update(second, is_default=True))
        assert (error.reason, error.metadata["allowed"]) == ("BILLING_PROFILE_STATE", "ACTIVE")
        assert (await profiles.get(first)).is_default
        assert (await profiles.update(await profiles.activate(second), is_default=True)).is_default


class TestUpdate:
    async def test_fields_of_the_mask_without_value_are_cleared(self, profiles: BillingProfileApi) -> None:
        cleared: dict[str, Any] = {
            "vat_id": "DE136695976", "registration_number": "HRB 1", "email": "ar@acme.example", "phone": "1",
            "contact_name": "Ada", "time_zone": "Europe/Berlin", "number_digits": 4, "default_note": "n",
            "payment_instructions": "p", "electronic_address": ElectronicAddress(scheme="EM", id="a@b"),
            "bank_account": BankAccount(iban=IBAN), "cross_border_treatment": BillingProfile.EXEMPT,
        }  # fmt: skip
        profile = await profiles.update(await profiles.create(**cleared), *cleared)
        bare = {"time_zone": "UTC", "number_digits": 6, "cross_border_treatment": BillingProfile.REVERSE_CHARGE}
        for field in cleared:
            empty = bare.get(field, getattr(BillingProfile(), field))
            assert getattr(profile, field) == empty, field

    async def test_vat_group_is_replaced_and_cleared(self, profiles: BillingProfileApi, api: EntitiesApi) -> None:
        one, two = [(await api.create_entity(code)).id for code in ("ONE", "TWO")]
        profile = await profiles.create(vat_group_entity_ids=[one])
        assert (await profiles.update(profile, vat_group_entity_ids=[two])).vat_group_entity_ids == [two]
        assert (await profiles.update(profile, "vat_group_entity_ids")).vat_group_entity_ids == []

    async def test_required_fields_cannot_be_cleared(self, profiles: BillingProfileApi) -> None:
        profile = await profiles.create()
        fields = "name", "legal_name", "address", "currency_code", "invoice_prefix"
        error = await refusal(profiles.update(profile, *fields))
        assert set(error.fields) == set(fields)
        assert (await refusal(profiles.update(profile, address=Address(city="Bonn")))).rules == {
            "address.country_code": "required"
        }

    async def test_vat_id_must_match_the_country_after_a_change(self, profiles: BillingProfileApi) -> None:
        profile = await profiles.create(vat_id="DE136695976")
        france = Address(country_code="FR")
        assert (await refusal(profiles.update(profile, address=france))).rules == {"vat_id": "known.tax_id"}
        assert (await profiles.update(profile, address=france, vat_id="FR40303265045")).address == france

    async def test_stale_etag_is_refused(self, profiles: BillingProfileApi) -> None:
        profile = await profiles.create()
        changed = await profiles.update(profile, phone="1", etag=profile.etag)
        for call in (
            profiles.update(profile, phone="2", etag=profile.etag), profiles.deactivate(profile, etag=profile.etag),
            profiles.activate(profile, etag=profile.etag),
        ):  # fmt: skip
            assert (await refusal(call)).reason == "ETAG_MISMATCH"
        assert await profiles.get(profile) == changed

    async def test_unknown_profile_is_not_found(self, profiles: BillingProfileApi) -> None:
        unknown = BillingProfile(id=UNKNOWN)
        for call in (
            profiles.get(unknown), profiles.update(unknown, phone="1"), profiles.deactivate(unknown),
            profiles.activate(unknown),
        ):  # fmt: skip
            assert (await refusal(call)).reason == "BILLING_PROFILE_NOT_FOUND"

    async def test_state_changes(self, profiles: BillingProfileApi) -> None:
        await profiles.create()
        second = await create_second(profiles)
        assert (await refusal(profiles.activate(second))).reason == "BILLING_PROFILE_STATE"
        assert (await profiles.deactivate(second)).state == BillingProfile.INACTIVE
        assert (await refusal(profiles.deactivate(second))).reason == "BILLING_PROFILE_STATE"
        assert (await profiles.update(second, phone="1")).phone == "1"
        assert (await profiles.activate(second)).state == BillingProfile.ACTIVE


class TestList:
    async def test_filters(self, profiles: BillingProfileApi, api: EntitiesApi) -> None:
        entity = await api.create_entity("ACME-DE", legal_name="Deutschland GmbH")
        await profiles.create("First")
        second = await create_second(profiles)
        await profiles.create("Third", entity_id=entity.id)
        await profiles.deactivate(second)
        assert await profiles.names() == ["First", "Second", "Third"]
        assert await profiles.names(state=BillingProfile.ACTIVE) == ["First", "Third"]
        assert await profiles.names(state=BillingProfile.INACTIVE) == ["Second"]
        assert await profiles.names(entity_id=entity.id) == ["Third"]
        assert await profiles.names(q="deutsch") == ["Third"]
        assert await profiles.names(q="FIRST") == ["First"]
        assert await profiles.names(q="%") == []

    async def test_confined_callers_are_refused(
        self, entities: Entities, caller: Callable[..., Caller], api: EntitiesApi, profiles: BillingProfileApi
    ) -> None:
        entity = await api.create_entity()
        profile = await profiles.create()
        confined = BillingProfileApi(caller("finance", entity_scope=[entity.id]), entities)
        update = confined.update(profile, phone="1")
        for call in (confined.get(profile), confined.names(), confined.create("B"), update):
            assert (await refusal(call)).reason == "TENANT_SCOPE_REQUIRED"


class TestFindIssuer:
    async def test_issuer_of_a_document(
        self, profiles: BillingProfileApi, entities_served: Served[Entities], origin: Origin
    ) -> None:
        async with entities_served.service.db.read(origin) as tx:
            with pytest.raises(BillingProfileMissing, match="CreateBillingProfile"):
                await service.billing_profiles.find_issuer(tx, None)
        first, second = await profiles.create(), await create_second(profiles)
        inactive = await profiles.deactivate(second)
        async with entities_served.service.db.read(origin) as tx:
            assert (await service.billing_profiles.find_issuer(tx, None)).name == first.name
            issuer = await service.billing_profiles.find_issuer(tx, ids.BILLING_PROFILE.parse(first.id))
            assert issuer.name == first.name
            with pytest.raises(BillingProfileInactive):
                await service.billing_profiles.find_issuer(tx, ids.BILLING_PROFILE.parse(inactive.id))
            with pytest.raises(BillingProfileNotFound):
                await service.billing_profiles.find_issuer(tx, ids.BILLING_PROFILE.parse(UNKNOWN))

    async def test_party_of_a_profile_survives_its_record(
        self, profiles: BillingProfileApi, entities_served: Served[Entities], origin: Origin
    ) -> None:
        created = await profiles.create(
            bank_account=BankAccount(iban=IBAN), electronic_address=ElectronicAddress(scheme="EM", id="a@b")
        )
        async with entities_served.service.db.read(origin) as tx:
            party = (await store.billing_profiles.get_default(tx)).party
        assert (party.legal_name, party.country_code, party.currency_code) == (created.legal_name, "DE", "EUR")
        assert party.bank_account
        assert party.bank_account.iban == IBAN
        assert Party.from_record(party.to_record()) == party
