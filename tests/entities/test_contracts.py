"""Contracts: creation, changes, signatures and activation."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from billing.entities.v1 import contract_service_pb2 as pb
from billing.entities.v1.contract_pb2 import Contract, ContractSignature, SlaTerms
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.events_pb2 import ContractActivated
from grpc import StatusCode

from kit import ids
from tests.entities.contract_api import DIGEST, ContractApi, contract_request, day, money, phase
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal
from tests.harness.observe import AuditRow, OutboxEvent, PublishedEvents

ALL_TERMS: dict[str, Any] = {
    "contract_number": "ACME/1", "name": "Platform", "contract_type": Contract.ENTERPRISE_LICENSE,
    "start_date": "2026-01-01", "end_date": "2027-01-01", "total_value": money("18000.00"),
    "billing_frequency": Contract.QUARTERLY, "phases": [phase("2026-01-01", "3000.00"), phase("2026-07-01", "6000.00")],
    "minimum_commitment": money("9000.00"), "license_tier": "gold", "seats": 250, "payment_terms_days": 0,
    "purchase_order_number": "PO-7", "purchase_order_limit": money("20000.00"), "auto_renew": True,
    "renewal_term_months": 24, "renewal_notice_days": 60, "renewal_uplift_bp": 350,
    "sla_terms": SlaTerms(uptime_bp=9990, response_hours=4, credit_bp=500),
}  # fmt: skip


@pytest.fixture
async def acme(api: EntitiesApi) -> Entity:
    return await api.create_entity("ACME", payment_terms_days=45)


class TestCreateContract:
    async def test_contract_has_the_requested_fields(self, contracts: ContractApi, acme: Entity) -> None:
        created = await contracts.create(acme, **ALL_TERMS)
        assert created == Contract(
            **ALL_TERMS,
            id=created.id,
            entity_id=acme.id,
            state=Contract.DRAFT,
            license_state=Contract.NONE,
            etag="1",
            create_time=created.create_time,
            update_time=created.update_time,
            anchor_day=1,
        )
        assert await contracts.get(created) == created

    async def test_omitted_fields_have_defaults(self, contracts: ContractApi, acme: Entity) -> None:
        created = await contracts.create(acme)
        assert (created.payment_terms_days, created.renewal_term_months, created.renewal_notice_days) == (45, 12, 30)
        assert not created.auto_renew
        assert not created.HasField("minimum_commitment")
        assert not created.HasField("sla_terms")
        evergreen = await contracts.create(acme, end_date="")
        assert evergreen.end_date == ""

    async def test_contract_numbers_are_unique(self, contracts: ContractApi, acme: Entity) -> None:
        year = day()[:4]
        await contracts.create(acme, contract_number=f"CON-{year}-000002")
        numbers = [
            contract.contract_number for contract in await asyncio.gather(*(contracts.create(acme) for _ in "abc"))
        ]
        assert sorted(numbers) == [f"CON-{year}-00000{n}" for n in (1, 3, 4)]
        error = await refusal(contracts.create(acme, contract_number=numbers[0]))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "CONTRACT_NUMBER_TAKEN")
        assert error.metadata == {"contract_number": numbers[0]}

    async def test_each_tenant_has_its_own_number_sequence(
        self,
        contracts: ContractApi,
        acme: Entity,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:
        other = api_for(caller(tenant=ids.new()))
        first, theirs = await contracts.create(acme), await ContractApi(other).create(await other.create_entity("ACME"))
        assert first.contract_number == theirs.contract_number

    async def test_deactivated_entity_is_rejected(self, api: EntitiesApi, contracts: ContractApi, acme: Entity) -> None:
        await api.deactivate(acme)
        error = await refusal(contracts.create(acme))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_STATE")

    async def test_unknown_entity_is_not_found(self, contracts: ContractApi) -> None:
        unknown_id = ids.ENTITY.format(ids.new())
        error = await refusal(contracts.create(unknown_id))
        assert (error.reason, error.metadata) == ("ENTITY_NOT_FOUND", {"entity_id": unknown_id})

    async def test_key_replays_the_response_and_rejects_another_request(
        self, contracts: ContractApi, acme: Entity
    ) -> None:
        first = await contracts.create(acme, request_id="key-1")
        assert await contracts.create(acme, request_id="key-1") == first
        error = await refusal(contracts.create(acme, request_id="key-1", name="Other"))
        assert error.reason == "IDEMPOTENCY_MISMATCH"
        assert await contracts.list_names() == ["Cloud"]


BAD_TERMS: list[tuple[dict[str, Any], set[str]]] = [
    ({"start_date": "2026-02-01", "end_date": "2026-02-01"}, {"end_date"}),
    ({"end_date": "", "auto_renew": True}, {"auto_renew"}),
    ({"start_date": "2026-02-01", "end_date": "2026-02-21", "renewal_notice_days": 21}, {"renewal_notice_days"}),
    ({"auto_renew": True, "renewal_term_months": 1, "renewal_notice_days": 29}, {"renewal_notice_days"}),
    ({"total_value": money("-1")}, {"total_value.amount"}),
    (
        {"minimum_commitment": money("0"), "purchase_order_limit": money("1", "USD")},
        {"minimum_commitment.amount", "purchase_order_limit.currency_code", "purchase_order_number"},
    ),
    ({"minimum_commitment": money("5", "USD")}, {"minimum_commitment.currency_code"}),
    ({"contract_type": Contract.USAGE_COMMITMENT}, {"minimum_commitment"}),
    ({"contract_type": Contract.ENTERPRISE_LICENSE}, {"license_tier", "seats"}),
    ({"start_date": "2026-01-01", "phases": [phase("2026-01-02", "1")]}, {"phases[0].start_date"}),
    (
        {"start_date": "2026-01-01", "phases": [phase("2026-01-01", "1"), phase("2026-01-01", "2")]},
        {"phases[1].start_date"},
    ),
    (
        {"start_date": "2026-01-01", "end_date": "2026-07-01",
         "phases": [phase("2026-01-01", "-1"), phase("2026-07-01", "2", "USD")]},
        {"phases[0].fee.amount", "phases[1].start_date", "phases[1].fee.currency_code"},
    ),
    (
        {"start_date": "2026-01-01", "billing_frequency": Contract.ONE_TIME, "phases": [phase("2026-01-01", "1")]},
        {"phases"},
    ),
    (
        {"start_date": "2026-02-01", "end_date": "2026-01-01", "total_value": money("-1"), "phases":
         [phase("2026-03-01", "1")], "contract_type": Contract.USAGE_COMMITMENT},
        {"end_date", "total_value.amount", "phases[0].start_date", "minimum_commitment"},
    ),
]  # fmt: skip


class TestValue:
    async def test_total_value_must_be_the_sum_of_the_phases(self, contracts: ContractApi, acme: Entity) -> None:
        ramp = {
            "start_date": "2026-01-01", "end_date": "2027-01-01", "billing_frequency": Contract.MONTHLY,
            "phases": [phase("2026-01-01", "2000.00"), phase("2026-10-04", "2500.00")],
        }  # fmt: skip
        error = await refusal(contracts.create(acme, **ramp, total_value=money("24000.00")))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"total_value.amount"})
        assert error.fields["total_value.amount"].startswith("must be 25451.61 EUR")
        created = await contracts.create(acme, **ramp, total_value=money("25451.61"))
        assert created.total_value == money("25451.61")
        error = await refusal(contracts.update(created, phases=[phase("2026-01-01", "1.00")]))
        assert error.fields["total_value.amount"].startswith("must be 12.00 EUR")

    async def test_value_of_an_evergreen_contract_is_that_of_the_first_year(
        self, contracts: ContractApi, acme: Entity
    ) -> None:
        ramp = {"start_date": "2026-01-01", "end_date": "", "phases": [phase("2026-01-01", "100.00")]}
        error = await refusal(contracts.create(acme, **ramp, total_value=money("1200.01")))
        assert error.fields["total_value.amount"].startswith("must be 1200.00 EUR")
        assert (await contracts.create(acme, **ramp, total_value=money("1200.00"))).end_date == ""


class TestTerms:
    @pytest.mark.parametrize(("terms", "fields"), BAD_TERMS)
    async def test_all_inconsistent_terms_are_reported_at_once(
        self, contracts: ContractApi, acme: Entity, terms: dict[str, Any], fields: set[str]
    ) -> None:
        error = await refusal(contracts.create(acme, **terms))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", fields)
        assert await contracts.list_names() == []

    @pytest.mark.parametrize(
        ("terms", "field"),
        [
            ({"seats": -1}, "seats"),
            ({"renewal_uplift_bp": 10001}, "renewal_uplift_bp"),
            ({"renewal_notice_days": 731}, "renewal_notice_days"),
            ({"renewal_term_months": 0}, "renewal_term_months"),
            ({"sla_terms": SlaTerms(uptime_bp=10001)}, "sla_terms.uptime_bp"),
            ({"sla_terms": SlaTerms(response_hours=-1)}, "sla_terms.response_hours"),
            ({"sla_terms": SlaTerms(credit_bp=10001)}, "sla_terms.credit_bp"),
            ({"start_date": "2026-02-30", "end_date": ""}, "start_date"),
            ({"total_value": money("1.005")}, "total_value.amount"),
            ({"phases": [phase("2026-1-1", "1")]}, "phases[0].start_date"),
            ({"contract_type": Contract.TYPE_UNSPECIFIED}, "contract_type"),
            ({"contract_number": "a b"}, "contract_number"),
        ],
    )
    async def test_values_out_of_bounds_are_rejected(
        self, contracts: ContractApi, acme: Entity, terms: dict[str, Any], field: str
    ) -> None:
        request = contract_request(acme)
        for name, value in terms.items():
            request.ClearField(name)  # type: ignore[arg-type]
            request.MergeFrom(pb.CreateContractRequest(**{name: value}))
        error = await refusal(contracts.caller.call(contracts.stub.CreateContract, request))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {field})


class TestUpdateContract:
    async def test_only_given_fields_change(self, contracts: ContractApi, acme: Entity) -> None:
        draft = await contracts.create(acme, **ALL_TERMS)
        updated = await contracts.update(draft, name="Renamed", seats=300, renewal_notice_days=0)
        expected = Contract()
        expected.CopyFrom(draft)
        expected.name, expected.seats, expected.renewal_notice_days, expected.etag = "Renamed", 300, 0, "2"
        expected.update_time.CopyFrom(updated.update_time)
        assert updated == expected
        assert await contracts.get(draft) == updated

    async def test_every_term_can_be_changed(self, contracts: ContractApi, acme: Entity) -> None:
        updated = await contracts.update(await contracts.create(acme), **ALL_TERMS)
        for field, value in ALL_TERMS.items():
            assert getattr(updated, field) == value, field

    async def test_fields_in_the_mask_without_value_are_cleared(self, contracts: ContractApi, acme: Entity) -> None:
        draft = await contracts.create(acme, **{**ALL_TERMS, "contract_type": Contract.SERVICES})
        cleared = {
            "end_date", "phases", "minimum_commitment", "license_tier", "seats", "payment_terms_days",
            "purchase_order_number", "purchase_order_limit", "auto_renew", "renewal_term_months",
            "renewal_notice_days", "renewal_uplift_bp", "sla_terms",
        }  # fmt: skip
        request = pb.UpdateContractRequest(id=draft.id)
        request.update_mask.paths.extend(cleared)
        updated = await contracts.caller.call(contracts.stub.UpdateContract, request)
        assert (updated.payment_terms_days, updated.renewal_term_months, updated.renewal_notice_days) == (45, 12, 30)
        present = {field.name for field, _ in updated.ListFields()}
        assert present & cleared == {"payment_terms_days", "renewal_term_months", "renewal_notice_days"}

    async def test_required_terms_cannot_be_cleared(self, contracts: ContractApi, acme: Entity) -> None:
        request = pb.UpdateContractRequest(id=(await contracts.create(acme)).id)
        required = {"contract_number", "name", "contract_type", "start_date", "total_value", "billing_frequency"}
        request.update_mask.paths.extend(required)
        error = await refusal(contracts.caller.call(contracts.stub.UpdateContract, request))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", required)

    async def test_inconsistent_changes_are_rejected(self, contracts: ContractApi, acme: Entity) -> None:
        draft = await contracts.create(acme, **ALL_TERMS)
        error = await refusal(contracts.update(draft, total_value=money("5", "USD")))
        assert set(error.fields) == {
            "minimum_commitment.currency_code", "purchase_order_limit.currency_code", "phases[0].fee.currency_code",
            "phases[1].fee.currency_code",
        }  # fmt: skip
        assert await contracts.get(draft) == draft

    async def test_number_of_another_contract_is_rejected(self, contracts: ContractApi, acme: Entity) -> None:
        first, second = await contracts.create(acme), await contracts.create(acme)
        error = await refusal(contracts.update(second, contract_number=first.contract_number))
        assert error.reason == "CONTRACT_NUMBER_TAKEN"

    async def test_stale_etag_is_rejected(self, contracts: ContractApi, acme: Entity) -> None:
        draft = await contracts.create(acme)
        await contracts.update(draft, name="First", etag=draft.etag)
        error = await refusal(contracts.update(draft, name="Second", etag=draft.etag))
        assert (error.reason, error.metadata) == ("ETAG_MISMATCH", {"given": "1", "etag": "2"})
        assert (await contracts.get(draft)).name == "First"


class TestSignContract:
    async def test_each_party_signs_the_same_document_once(self, contracts: ContractApi, acme: Entity) -> None:
        draft = await contracts.submit(await contracts.create(acme))
        signed = await contracts.sign(draft)
        error = await refusal(contracts.sign(draft))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "CONTRACT_ALREADY_SIGNED")
        assert error.metadata == {"contract_id": draft.id, "party": "OURS"}
        other = "0" * 64
        error = await refusal(contracts.sign(draft, ContractSignature.COUNTERPARTY, document_digest=other))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_DIGEST_DIFFERS")
        assert error.metadata == {"contract_id": draft.id, "given": other, "signed": DIGEST}
        both = await contracts.sign(draft, ContractSignature.COUNTERPARTY, signer_name="Bob", signer_title="")
        signatures = [
            (s.party, s.signer_name, s.signer_title, s.document_digest, s.recorded_by) for s in both.signatures
        ]
        assert signatures == [
            (ContractSignature.OURS, "Ada", "CFO", DIGEST, "alice"),
            (ContractSignature.COUNTERPARTY, "Bob", "", DIGEST, "alice"),
        ]
        assert len({draft.etag, signed.etag, both.etag}) == 3
        assert await contracts.get(draft) == both

    async def test_concurrent_signatures_of_a_party_count_once(self, contracts: ContractApi, acme: Entity) -> None:
        draft = await contracts.submit(await contracts.create(acme))
        results = await asyncio.gather(*(contracts.sign(draft) for _ in range(4)), return_exceptions=True)
        assert sum(isinstance(result, Contract) for result in results) == 1
        assert len((await contracts.get(draft)).signatures) == 1

    async def test_signing_requires_its_own_permission(
        self,
        contracts: ContractApi,
        acme: Entity,
        api_for: Callable[[Caller], EntitiesApi],
        caller: Callable[..., Caller],
    ) -> None:
        draft = await contracts.submit(await contracts.create(acme))
        for role in ("viewer", "auditor", "department_manager", "approver"):
            error = await refusal(ContractApi(api_for(caller(role))).sign(draft))
            assert (error.code, error.metadata) == (
                StatusCode.PERMISSION_DENIED,
                {"permission": "contracts.sign"},
            ), role
        assert (await ContractApi(api_for(caller("procurement"))).sign(draft)).signatures

    async def test_signatures_are_immutable_in_the_database(
        self, contracts: ContractApi, acme: Entity, app_connection: Callable[..., Any]
    ) -> None:
        draft = await contracts.submit(await contracts.create(acme))
        await contracts.sign(draft)
        async with app_connection("entities") as connection:
            await connection.execute(f"set app.tenant_id = '{contracts.caller.tenant_id}'")
            for statement in ("update contract_signatures set signer_name = 'X'", "delete from contract_signatures"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)


class TestActivateContract:
    async def test_event_has_the_license_terms(
        self, contracts: ContractApi, acme: Entity, published_events: PublishedEvents
    ) -> None:
        active = await contracts.create_active(acme, license_tier="gold", seats=12)
        assert (active.state, active.license_state) == (Contract.ACTIVE, Contract.REQUESTED)
        assert active.HasField("activate_time")
        assert await published_events.first(ContractActivated) == ContractActivated(
            contract_id=active.id, entity_id=acme.id, contract_number=active.contract_number, contract_type="SERVICES",
            license_tier="gold", seats=12, start_date=active.start_date, end_date=active.end_date,
            total_value=money("1200.00"),
        )  # fmt: skip

    async def test_contract_without_license_terms_requests_no_license(
        self, contracts: ContractApi, acme: Entity
    ) -> None:
        assert (await contracts.create_active(acme)).license_state == Contract.NONE

    @pytest.mark.parametrize(
        ("signed", "missing"),
        [
            ((), "OURS, COUNTERPARTY"),
            ((ContractSignature.OURS,), "COUNTERPARTY"),
            ((ContractSignature.COUNTERPARTY,), "OURS"),
        ],
    )
    async def test_both_signatures_are_required(
        self,
        contracts: ContractApi,
        acme: Entity,
        signed: tuple[ContractSignature.Party.ValueType, ...],
        missing: str,
    ) -> None:
        draft = await contracts.submit(await contracts.create(acme))
        for party in signed:
            await contracts.sign(draft, party)
        error = await refusal(contracts.activate(draft))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_SIGNATURE_MISSING")
        assert error.metadata == {"contract_id": draft.id, "missing": missing}

    async def test_subscription_requires_no_signature(self, contracts: ContractApi, acme: Entity) -> None:
        draft = await contracts.submit(await contracts.create(acme, contract_type=Contract.SUBSCRIPTION))
        assert (await contracts.activate(draft)).state == Contract.ACTIVE

    async def test_contract_whose_term_is_over_is_rejected(self, contracts: ContractApi, acme: Entity) -> None:
        error = await refusal(contracts.create_active(acme, start_date=day(-60), end_date=day(-10)))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "CONTRACT_TERM_OVER")
        assert error.metadata["end_date"] == day(-10)

    async def test_activation_before_the_start_date_is_allowed(self, contracts: ContractApi, acme: Entity) -> None:
        active = await contracts.create_active(acme, start_date=day(100))
        assert (active.state, active.start_date) == (Contract.ACTIVE, day(100))

    async def test_contract_of_a_deactivated_entity_is_rejected(
        self, api: EntitiesApi, contracts: ContractApi, acme: Entity
    ) -> None:
        draft = await contracts.submit(await contracts.create(acme))
        for party in (ContractSignature.OURS, ContractSignature.COUNTERPARTY):
            await contracts.sign(draft, party)
        await api.deactivate(acme)
        assert (await refusal(contracts.activate(draft))).reason == "ENTITY_STATE"

    async def test_key_replays_the_response(
        self,
        contracts: ContractApi,
        acme: Entity,
        outbox_events: Callable[[str], Awaitable[list[OutboxEvent]]],
    ) -> None:
        draft = await contracts.submit(await contracts.create(acme, contract_type=Contract.SUBSCRIPTION))
        first = await contracts.activate(draft, request_id="key-1")
        assert await contracts.activate(draft, request_id="key-1") == first
        types = [event.type for event in await outbox_events("entities")]
        assert types.count("billing.entities.v1.ContractActivated") == 1


class TestDeactivateEntity:
    async def test_entity_with_contracts_in_force_is_not_deactivated(
        self, api: EntitiesApi, contracts: ContractApi, acme: Entity
    ) -> None:
        await contracts.create(acme)
        first, second = await contracts.create_active(acme), await contracts.create_active(acme)
        await contracts.suspend(second)
        error = await refusal(api.deactivate(acme))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_HAS_ACTIVE_CONTRACTS")
        assert error.metadata == {"entity_id": acme.id, "contract_ids": f"{first.id}, {second.id}"}
        for contract in (first, second):
            await contracts.terminate(contract, for_cause=True)
        assert (await api.deactivate(acme)).state == Entity.INACTIVE

    async def test_concurrent_activation_and_deactivation_exclude_each_other(
        self, api: EntitiesApi, contracts: ContractApi
    ) -> None:
        for round_ in range(6):
            entity = await api.create_entity(f"E{round_}")
            draft = await contracts.submit(await contracts.create(entity, contract_type=Contract.SUBSCRIPTION))
            results = await asyncio.gather(contracts.activate(draft), api.deactivate(entity), return_exceptions=True)
            assert sum(not isinstance(result, BaseException) for result in results) == 1


class TestAuditLog:
    async def test_signature_is_recorded_with_its_actor(
        self, contracts: ContractApi, acme: Entity, audit_rows: Callable[[str], Awaitable[list[AuditRow]]]
    ) -> None:
        draft = await contracts.submit(await contracts.create(acme))
        await contracts.sign(draft)
        rows = [row for row in await audit_rows("entities") if row.table.startswith(("billing_con", "contract_sig"))]
        assert [(row.table, row.action) for row in rows] == [
            ("billing_contracts", "insert"), ("billing_contracts", "update"), ("billing_contracts", "update"),
            ("contract_signatures", "insert"),
        ] or [(row.table, row.action) for row in rows][2:] == [
            ("contract_signatures", "insert"), ("billing_contracts", "update"),
        ]  # fmt: skip
        assert {row.actor for row in rows} == {"alice"}
