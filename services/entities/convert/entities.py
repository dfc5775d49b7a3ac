"""Entities."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from billing.entities.v1 import entity_service_pb2
from billing.entities.v1.entity_pb2 import Address as AddressMessage
from billing.entities.v1.entity_pb2 import Entity

from contract.values import time_fields
from kit import ids
from services.entities import convert
from services.entities.domain.entities import (
    FISCAL_YEAR_START_MONTH_DEFAULT,
    PAYMENT_TERMS_DAYS_DEFAULT,
    TIME_ZONE_DEFAULT,
    Address,
    Consolidation,
    EntityState,
    EntityType,
)
from services.entities.models.entities import EntityColumns, EntityRow
from services.entities.service.entities import EntityDraft

_TYPES: Final = {kind: Entity.Type.Value(kind) for kind in EntityType}
_STATES: Final = {state: Entity.State.Value(state) for state in EntityState}
_CONSOLIDATIONS: Final = {kind: Entity.Consolidation.Value(kind) for kind in Consolidation}


def to_proto(row: EntityRow | EntityColumns) -> Entity:
    """An entity, out of its row or out of the same columns."""
    # Messages within the message are given as dicts: those are filled in place, and not copied.
    within: dict[str, Any] = {
        "create_time": time_fields(row.create_time),
        "update_time": time_fields(row.update_time),
    }
    if row.address:
        within["address"] = _parsed(row.address)
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
        **within,
    )
    for name, value in _parsed(row.labels).items():  # a map that is given to the message costs more than all else
        entity.metadata[name] = value
    return entity


def _parsed(value: Any) -> Any:
    """A JSON value, also where it comes as it is written."""
    return orjson.loads(value) if isinstance(value, str) else value


def draft_from_proto(request: entity_service_pb2.CreateEntityRequest) -> EntityDraft:
    """What CreateEntity asks for, with its defaults."""
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
        address=_address(request.address) if request.HasField("address") else None,
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


def _address(message: AddressMessage) -> Address:
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
"""What each field of an entity is when it is cleared; those that are not here can't be."""


def changes_from_proto(request: entity_service_pb2.UpdateEntityRequest) -> Mapping[str, Any]:
    """The columns that UpdateEntity changes, with their new values; raises InvalidFields."""
    changes = convert.changes.changed_columns(request, _ENTITY_CLEARED)
    if "entity_type" in changes:
        changes["entity_type"] = EntityType(Entity.Type.Name(request.entity_type))
    if changes.get("consolidation") and request.consolidation:
        changes["consolidation"] = _consolidation(request.consolidation)
    if changes.get("address"):
        changes["address"] = _address(request.address)
    if "metadata" in changes:
        changes["labels"] = dict(changes.pop("metadata"))
    return changes
