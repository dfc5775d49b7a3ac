import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1.entity_pb2 import Address, Entity
from billing.entities.v1.events_pb2 import EntityCreated, EntityDeactivated
from grpc import StatusCode
from grpc.aio import AioRpcError

from kit import ids
from tests.entities.entities_api import EntitiesApi, entity_request
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.observe import PublishedEvents

UNKNOWN_ID = ids.ENTITY.format(UUID(int=1))


def outcomes(responses: Iterable[object]) -> list[str]:
    """The reasons of the errors, and "done" for the successful calls; sorted."""
    return sorted(
        Refusal.of(response).reason if isinstance(response, AioRpcError) else "done" for response in responses
    )


class TestCreateEntity:
    async def test_has_the_given_fields(self, api: EntitiesApi) -> None:
        root = await api.create_entity("ROOT")
        fields: dict[str, Any] = {
            "parent_id": root.id,
            "code": "ACME-DE",
            "legal_name": "Acme Deutschland GmbH",
            "display_name": "Acme Germany",
            "entity_type": Entity.DIVISION,
            "currency_code": "CHF",
            "country_code": "CH",
            "tax_id": "CHE-100.155.212",
            "registration_number": "HRB 7",
            "tax_rate_bp": 810,
            "address": Address(
                lines=["Hauptstr. 1", "2. Stock"], postal_code="8001", city="Zürich", region="ZH", country_code="CH"
            ),
            "time_zone": "Europe/Zurich",
            "fiscal_year_start_month": 4,
            "payment_terms_days": 14,
            "invoice_prefix": "CH-",
            "consolidation": Entity.SEPARATE,
            "metadata": {"team": "alpine", "ключ": "значение"},
        }
        created = await api.create_entity(**fields)
        now = datetime.now(UTC)
        assert created == Entity(
            **fields,
            id=created.id,
            state=Entity.ACTIVE,
            etag="1",
            create_time=created.create_time,
            update_time=created.update_time,
        )
        assert created.create_time.ToDatetime(UTC) == pytest.approx(now, abs=timedelta(seconds=20))
        assert await api.get(created) == created

    async def test_defaults(self, api: EntitiesApi) -> None:
        created = await api.create_entity("ACME", legal_name="Acme SE")
        assert created.parent_id == ""
        assert created.display_name == "Acme SE"
        assert created.time_zone == "UTC"
        assert created.fiscal_year_start_month == 1
        assert created.payment_terms_days == 30
        assert created.invoice_prefix == "ACME"
        assert created.consolidation == Entity.INCLUDE
        assert not created.HasField("address")

    async def test_zero_payment_days_are_not_the_default(self, api: EntitiesApi) -> None:
        assert (await api.create_entity(payment_terms_days=0)).payment_terms_days == 0

    async def test_error_lists_all_invalid_fields(self, api: EntitiesApi) -> None:
        error = await refusal(
            api.create_entity(
                "no spaces", currency_code="EUX", country_code="XX", time_zone="Mars/Base", parent_id="dep_1"
            )
        )
        assert error.reason == "INVALID_FIELDS"
        assert set(error.fields) == {"code", "currency_code", "country_code", "time_zone", "parent_id"}

    async def test_code_is_unique_within_the_tenant(
        self, api: EntitiesApi, api_for: Callable[[Caller], EntitiesApi], caller: Callable[..., Caller]
    ) -> None:
        await api.create_entity("ACME")
        error = await refusal(api.create_entity("ACME"))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "ENTITY_CODE_TAKEN")
        assert error.metadata == {"code": "ACME"}
        other_tenant = api_for(caller("finance", tenant=ids.new()))
        assert (await other_tenant.create_entity("ACME")).code == "ACME"

    async def test_of_concurrent_creations_with_one_code_one_succeeds(self, api: EntitiesApi) -> None:
        responses = await asyncio.gather(*(api.create_entity("ACME") for _ in range(8)), return_exceptions=True)
        assert outcomes(responses) == ["ENTITY_CODE_TAKEN"] * 7 + ["done"]
        assert await api.entities() == ["ACME"]

    async def test_unknown_parent_is_not_found(self, api: EntitiesApi) -> None:
        error = await refusal(api.create_entity(parent_id=UNKNOWN_ID))
        assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "ENTITY_NOT_FOUND")
        assert error.metadata == {"entity_id": UNKNOWN_ID}

    async def test_inactive_parent_is_refused(self, api: EntitiesApi) -> None:
        parent = await api.create_entity("PARENT")
        await api.deactivate(parent)
        error = await refusal(api.create_entity("CHILD", parent_id=parent.id))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_STATE")
        assert error.metadata == {"entity_id": parent.id, "state": "INACTIVE", "allowed": "ACTIVE"}

    async def test_tree_has_sixteen_levels_at_most(self, api: EntitiesApi) -> None:
        lowest = await api.create_entity("L1")
        for level in range(2, 17):
            lowest = await api.create_entity(f"L{level}", parent_id=lowest.id)
        error = await refusal(api.create_entity("L17", parent_id=lowest.id))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_TREE_TOO_DEEP")
        assert error.metadata == {"parent_id": lowest.id, "limit": "16"}

    async def test_event_is_published_once(self, api: EntitiesApi, published_events: PublishedEvents) -> None:
        root = await api.create_entity("ROOT")
        child = await api.create_entity("CHILD", parent_id=root.id, currency_code="USD")
        assert await published_events.at_least(2, EntityCreated) == [
            EntityCreated(entity_id=root.id, code="ROOT", currency_code="EUR"),
            EntityCreated(entity_id=child.id, parent_id=root.id, code="CHILD", currency_code="USD"),
        ]

    async def test_repeated_key_returns_same_response(
        self, api: EntitiesApi, published_events: PublishedEvents
    ) -> None:
        keyed = entity_request("ACME", request_id="key-1")
        first = await api.caller.call(api.entities_stub.CreateEntity, keyed)
        await api.update(first, legal_name="Changed since")
        again, trailers = await api.caller.call_with_trailers(api.entities_stub.CreateEntity, keyed)
        assert again == first
        assert trailers["idempotency-replayed"] == "true"
        assert await api.entities() == ["ACME"]
        assert len(await published_events.at_least(1, EntityCreated)) == 1

    async def test_key_with_another_body_is_refused(self, api: EntitiesApi) -> None:
        await api.create_entity("ACME", request_id="key-1")
        error = await refusal(api.create_entity("OTHER", request_id="key-1"))
        assert (error.code, error.reason) == (StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")
        assert await api.entities() == ["ACME"]

    async def test_concurrent_calls_with_one_key_have_one_effect(self, api: EntitiesApi) -> None:
        responses = await asyncio.gather(*(api.create_entity("ACME", request_id="key-1") for _ in range(8)))
        assert len({response.id for response in responses}) == 1


class TestUpdateEntity:
    async def test_only_given_fields_change(self, api: EntitiesApi) -> None:
        entity = await api.create_entity(tax_id="DE111111125", metadata={"a": "1"})
        updated = await api.update(entity, legal_name="New SE", metadata={"b": "2"})
        expected = Entity()
        expected.CopyFrom(entity)
        expected.legal_name = expected.display_name = "New SE"  # the display name is not set
        expected.etag = "2"
        expected.update_time.CopyFrom(updated.update_time)
        expected.ClearField("metadata")
        expected.metadata["b"] = "2"
        assert updated == expected
        assert updated.update_time.ToNanoseconds() > entity.update_time.ToNanoseconds()
        assert await api.get(entity) == updated

    async def test_empty_update_keeps_the_etag(self, api: EntitiesApi) -> None:
        entity = await api.create_entity()
        assert await api.update(entity) == entity
        assert await api.update(entity, legal_name=entity.legal_name) == entity

    async def test_stale_etag_is_refused(self, api: EntitiesApi) -> None:
        entity = await api.create_entity()
        changed = await api.update(entity, legal_name="First SE", etag=entity.etag)
        error = await refusal(api.update(entity, legal_name="Second SE", etag=entity.etag))
        assert (error.code, error.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        assert error.metadata == {"given": "1", "etag": "2"}
        assert await api.get(entity) == changed

    async def test_of_concurrent_updates_with_one_etag_one_succeeds(self, api: EntitiesApi) -> None:
        entity = await api.create_entity()
        updates = (api.update(entity, legal_name=f"N{n}", etag=entity.etag) for n in range(8))
        responses = await asyncio.gather(*updates, return_exceptions=True)
        assert outcomes(responses) == ["ETAG_MISMATCH"] * 7 + ["done"]

    async def test_fields_of_the_mask_without_value_are_cleared(self, api: EntitiesApi) -> None:
        entity = await api.create_entity(
            display_name="Acme", tax_id="DE111111125", registration_number="2", tax_rate_bp=3,
            address=Address(city="Bonn"),
            time_zone="Europe/Berlin", fiscal_year_start_month=4, payment_terms_days=5, invoice_prefix="X-",
            consolidation=Entity.SEPARATE, metadata={"a": "b"},
        )  # fmt: skip
        request = pb.UpdateEntityRequest(id=entity.id)
        request.update_mask.paths.extend([
            "display_name", "tax_id", "registration_number", "tax_rate_bp", "address", "time_zone",
            "fiscal_year_start_month", "payment_terms_days", "invoice_prefix", "consolidation", "metadata",
        ])  # fmt: skip
        cleared = await api.caller.call(api.entities_stub.UpdateEntity, request)
        bare = await api.create_entity("BARE", legal_name=entity.legal_name)
        for field in ("id", "code", "invoice_prefix", "etag", "create_time", "update_time"):
            cleared.ClearField(field)
            bare.ClearField(field)
        assert cleared == bare

    async def test_empty_fields_are_cleared(self, api: EntitiesApi) -> None:
        entity = await api.create_entity(
            display_name="Acme", time_zone="Europe/Berlin", invoice_prefix="X-", tax_rate_bp=3
        )
        cleared = await api.update(
            entity, display_name="", time_zone="", invoice_prefix="", tax_rate_bp=0, payment_terms_days=0
        )
        assert (cleared.display_name, cleared.time_zone) == (entity.legal_name, "UTC")
        assert (cleared.invoice_prefix, cleared.tax_rate_bp) == ("ACME", 0)
        assert cleared.payment_terms_days == 0

    async def test_required_fields_cannot_be_cleared(self, api: EntitiesApi) -> None:
        entity = await api.create_entity()
        request = pb.UpdateEntityRequest(id=entity.id)
        request.update_mask.paths.extend(["code", "legal_name", "entity_type", "country_code", "tax_id"])
        error = await refusal(api.caller.call(api.entities_stub.UpdateEntity, request))
        assert error.reason == "INVALID_FIELDS"
        assert set(error.fields) == {"code", "legal_name", "entity_type", "country_code"}
        assert await api.get(entity) == entity

    async def test_fields_outside_the_mask_stay(self, api: EntitiesApi) -> None:
        entity = await api.create_entity(tax_id="DE111111125")
        request = pb.UpdateEntityRequest(id=entity.id, legal_name="New SE", tax_id="DE136695976")
        request.update_mask.paths.append("legal_name")
        updated = await api.caller.call(api.entities_stub.UpdateEntity, request)
        assert (updated.legal_name, updated.tax_id) == ("New SE", "DE111111125")

    @pytest.mark.parametrize("path", ["currency_code", "state", "address.city", "etag"])
    async def test_mask_with_unknown_field_is_refused(self, api: EntitiesApi, path: str) -> None:
        request = pb.UpdateEntityRequest(id=(await api.create_entity()).id)
        request.update_mask.paths.append(path)
        error = await refusal(api.caller.call(api.entities_stub.UpdateEntity, request))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"update_mask"})

    async def test_new_code_must_be_free_and_keeps_the_invoice_prefix(self, api: EntitiesApi) -> None:
        await api.create_entity("ONE")
        two = await api.create_entity("TWO")
        error = await refusal(api.update(two, code="ONE"))
        assert (error.reason, error.metadata) == ("ENTITY_CODE_TAKEN", {"code": "ONE"})
        renamed = await api.update(two, code="THREE")
        assert (renamed.code, renamed.invoice_prefix) == ("THREE", "TWO")

    async def test_inactive_entity_cannot_be_changed(self, api: EntitiesApi) -> None:
        entity = await api.create_entity()
        await api.deactivate(entity)
        error = await refusal(api.update(entity, legal_name="New SE"))
        assert (error.reason, error.metadata["allowed"]) == ("ENTITY_STATE", "ACTIVE")

    async def test_unknown_entity_is_not_found(self, api: EntitiesApi) -> None:
        assert (await refusal(api.update(UNKNOWN_ID, legal_name="New SE"))).reason == "ENTITY_NOT_FOUND"


class TestDeactivateEntity:
    async def test_event_is_published(self, api: EntitiesApi, published_events: PublishedEvents) -> None:
        entity = await api.create_entity()
        deactivated = await api.deactivate(entity)
        assert (deactivated.state, deactivated.etag) == (Entity.INACTIVE, "2")
        assert await api.get(entity) == deactivated
        assert await published_events.first(EntityDeactivated) == EntityDeactivated(entity_id=entity.id)

    async def test_entity_with_active_children_is_not_deactivated(self, api: EntitiesApi) -> None:
        parent = await api.create_entity("PARENT")
        child = await api.create_entity("CHILD", parent_id=parent.id)
        error = await refusal(api.deactivate(parent))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_HAS_ACTIVE_CHILDREN")
        assert error.metadata == {"entity_id": parent.id, "child_ids": child.id}
        await api.deactivate(child)
        assert (await api.deactivate(parent)).state == Entity.INACTIVE

    async def test_error_names_current_and_allowed_states(self, api: EntitiesApi) -> None:
        entity = await api.create_entity()
        await api.deactivate(entity)
        error = await refusal(api.deactivate(entity))
        assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "ENTITY_STATE")
        assert error.metadata == {"entity_id": entity.id, "state": "INACTIVE", "allowed": "ACTIVE"}

    async def test_repeated_key_returns_same_response(
        self, api: EntitiesApi, published_events: PublishedEvents
    ) -> None:
        entity = await api.create_entity()
        first = await api.deactivate(entity, request_id="key-1")
        assert await api.deactivate(entity, request_id="key-1") == first
        error = await refusal(api.deactivate(entity, request_id="key-1", etag="7"))
        assert error.reason == "IDEMPOTENCY_MISMATCH"
        assert len(await published_events.at_least(1, EntityDeactivated)) == 1

    async def test_stale_etag_is_refused(self, api: EntitiesApi) -> None:
        entity = await api.create_entity()
        error = await refusal(api.deactivate(entity, etag="7"))
        assert error.reason == "ETAG_MISMATCH"
        assert (await api.get(entity)).state == Entity.ACTIVE

    async def test_deactivation_and_creation_of_a_child_exclude_each_other(self, api: EntitiesApi) -> None:
        for round_ in range(12):
            parent = await api.create_entity(f"P{round_}")
            births = (api.create_entity(f"C{round_}-{n}", parent_id=parent.id) for n in range(3))
            await asyncio.gather(*births, api.deactivate(parent), return_exceptions=True)
            tree = await api.tree(parent)
            assert tree.entity.state == Entity.ACTIVE or not tree.children
