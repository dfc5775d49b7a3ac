"""Conversion of entities."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from billing.entities.v1 import entity_service_pb2
from billing.entities.v1.entity_pb2 import Address as AddressMessage
from billing.entities.v1.entity_pb2 import Entity

from contract.values import enum_or_none, time_fields
from kit import ids
from services.entities import convert
from services.entities.domain.entities import (
    FISCAL_YEAR_START_MONTH_DEFAULT,
    PAYMENT_TERMS_DAYS_DEFAULT,
    TIME_ZONE_DEFAULT,
    Address,
    Consolidation,
    EntityDraft,
    EntityFilter,
    EntityState,
    EntityType,
)
from services.entities.models.entities import EntityColumns, EntityRow

_TYPES: Final = {kind: Entity.Type.Value(kind) for kind in EntityType}
_STATES: Final = {state: Entity.State.Value(state) for state in EntityState}
_CONSOLIDATIONS: Final = {kind: Entity.Consolidation.Value(kind) for kind in Consolidation}


def to_proto(row: EntityRow | EntityColumns) -> Entity:
    """Convert an entity from its row, or from a tuple of the same columns."""
    # Nested messages are passed as dicts: protobuf fills them in place instead of copying.
    nested: dict[str, Any] = {
        "create_time": time_fields(row.create_time),
        "update_time": time_fields(row.update_time),
    }
    if row.address:
        nested["address"] = _parsed(row.address)
    entity = Entity(
        id=ids.ENTITY.format(row.id),
        parent_id=ids.ENTITY.format_optional(row.parent_id),
        code=row.code,
        legal_name=row.legal_name,
        display_name=row.display_name or row.legal_name,
        entity_type=_TYPES[row.entity_type],
        currency_code=row.currency_code,
        country_code=row.country_code,
        tax_id=row.tax_id,
        registration_number=row.registration_number,
        tax_rate_bp=row.tax_rate_bp,
        time_zone=row.time_zone,
        fiscal_year_start_month=row.fiscal_year_start_month,
        payment_terms_days=row.payment_terms_days,
        invoice_prefix=row.invoice_prefix,
        controller_user_id=row.controller_user_id,
        consolidation=_CONSOLIDATIONS[row.consolidation],
        state=_STATES[row.state],
        etag=str(row.version),
        **nested,
    )
    for name, value in _parsed(row.labels).items():  # cheaper than passing the map
        entity.metadata[name] = value
    return entity


def _parsed(value: Any) -> Any:
    """Return a JSON value, parsed if it is still text."""
    return orjson.loads(value) if isinstance(value, str) else value


def draft_from_proto(request: entity_service_pb2.CreateEntityRequest) -> EntityDraft:
    """Parse CreateEntityRequest, with defaults filled in."""
    return EntityDraft(
        parent_id=ids.ENTITY.parse_optional(request.parent_id, "parent_id"),
        code=request.code,
        legal_name=request.legal_name,
        display_name=request.display_name,
        entity_type=EntityType(Entity.Type.Name(request.entity_type)),
        currency_code=request.currency_code,
        country_code=request.country_code,
        tax_id=request.tax_id,
        registration_number=request.registration_number,
        tax_rate_bp=request.tax_rate_bp,
        address=address_from_proto(request.address) if request.HasField("address") else None,
        time_zone=request.time_zone or TIME_ZONE_DEFAULT,
        fiscal_year_start_month=request.fiscal_year_start_month or FISCAL_YEAR_START_MONTH_DEFAULT,
        payment_terms_days=(
            request.payment_terms_days if request.HasField("payment_terms_days") else PAYMENT_TERMS_DAYS_DEFAULT
        ),
        invoice_prefix=request.invoice_prefix,
        consolidation=_consolidation(request.consolidation) if request.consolidation else Consolidation.INCLUDE,
        labels=dict(request.metadata),
        controller_user_id=request.controller_user_id,
    )


def filter_from_proto(request: entity_service_pb2.ListEntitiesRequest) -> EntityFilter:
    """Return the filters of ListEntitiesRequest."""
    return EntityFilter(
        state=enum_or_none(EntityState, Entity.State, request.state),
        parent_id=ids.ENTITY.parse_optional(request.parent_id, "parent_id"),
        entity_type=enum_or_none(EntityType, Entity.Type, request.entity_type),
        code=request.code,
        text=request.q,
    )


def address_to_proto(address: Address) -> AddressMessage:
    """Convert a postal address."""
    return AddressMessage(**address)


def address_from_proto(message: AddressMessage) -> Address:
    """Convert a postal address of a validated request."""
    return Address(
        lines=list(message.lines),
        postal_code=message.postal_code,
        city=message.city,
        region=message.region,
        country_code=message.country_code,
    )


def _consolidation(value: Entity.Consolidation.ValueType) -> Consolidation:
    return Consolidation(Entity.Consolidation.Name(value))


_ENTITY_CLEARED: Final[Mapping[str, Any]] = {
    "display_name": "",
    "tax_id": "",
    "registration_number": "",
    "tax_rate_bp": 0,
    "address": None,
    "time_zone": TIME_ZONE_DEFAULT,
    "fiscal_year_start_month": FISCAL_YEAR_START_MONTH_DEFAULT,
    "payment_terms_days": PAYMENT_TERMS_DAYS_DEFAULT,
    "invoice_prefix": "",
    "consolidation": Consolidation.INCLUDE,
    "metadata": {},
    "controller_user_id": "",
}
"""Value of each optional field after it is cleared; the others can't be cleared."""


def changes_from_proto(request: entity_service_pb2.UpdateEntityRequest) -> Mapping[str, Any]:
    """Return the columns that UpdateEntityRequest changes, with their new values. Raises InvalidFields."""
    changes = convert.changes.changed_columns(request, _ENTITY_CLEARED)
    if "entity_type" in changes:
        changes["entity_type"] = EntityType(Entity.Type.Name(request.entity_type))
    if changes.get("consolidation") and request.consolidation:
        changes["consolidation"] = _consolidation(request.consolidation)
    if changes.get("address"):
        changes["address"] = address_from_proto(request.address)
    if "metadata" in changes:
        changes["labels"] = dict(changes.pop("metadata"))
    return changes
