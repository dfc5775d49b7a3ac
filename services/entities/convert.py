"""Rows of the entities service to messages, and requests to what the use cases take; the only file that knows both."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from billing.entities.v1 import department_service_pb2, entity_service_pb2, exchange_rate_service_pb2
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Address as AddressMessage
from billing.entities.v1.entity_pb2 import Entity, EntityHierarchy
from billing.entities.v1.exchange_rate_pb2 import ConversionRate, ExchangeRate
from google.protobuf.message import Message

from contract.masks import changed_fields
from contract.values import time_to_proto
from kit import ids, money
from kit.errors import InvalidFields, Violation
from services.entities import domain
from services.entities.domain import Address, Consolidation, DerivedRate, EntityType, RateDraft
from services.entities.models import DepartmentRow, EntityColumns, EntityRow, ExchangeRateRow
from services.entities.service import Conversion, DepartmentDraft, EntityDraft


def entity_to_proto(row: EntityRow | EntityColumns) -> Entity:
    """An entity, out of its row or out of the same columns."""
    return Entity(
        id=ids.ENTITY.format(row.id),
        parent_id=ids.ENTITY.format_optional(row.parent_id),
        code=row.code,
        legal_name=row.legal_name,
        display_name=row.display_name or row.legal_name,
        entity_type=Entity.Type.Value(row.entity_type),
        currency_code=row.currency_code,
        country_code=row.country_code,
        tax_id=row.tax_id,
        registration_number=row.registration_number,
        tax_rate_bp=row.tax_rate_bp,
        address=AddressMessage(**row.address) if row.address else None,
        time_zone=row.time_zone,
        fiscal_year_start_month=row.fiscal_year_start_month,
        payment_terms_days=row.payment_terms_days,
        invoice_prefix=row.invoice_prefix,
        consolidation=Entity.Consolidation.Value(row.consolidation),
        state=Entity.State.Value(row.state),
        metadata=row.labels,
        etag=str(row.version),
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def hierarchy_to_proto(rows: Sequence[EntityColumns]) -> EntityHierarchy:
    """The tree out of its rows, in which parents stand before their children and the first one is the top."""
    top = EntityHierarchy(**_node(rows[0]))
    nodes: dict[UUID, EntityHierarchy] = {rows[0].id: top}
    for row in rows[1:]:
        nodes[row.id] = nodes[row.parent_id].children.add(**_node(row))
    return top


def _node(row: EntityColumns) -> dict[str, Any]:
    return {"entity": entity_to_proto(row), "truncated": row.truncated, "etag": str(row.version)}


def entity_draft_from_proto(request: entity_service_pb2.CreateEntityRequest) -> EntityDraft:
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
        time_zone=request.time_zone or domain.TIME_ZONE_DEFAULT,
        fiscal_year_start_month=request.fiscal_year_start_month or domain.FISCAL_YEAR_START_MONTH_DEFAULT,
        payment_terms_days=(
            request.payment_terms_days if request.HasField("payment_terms_days") else domain.PAYMENT_TERMS_DAYS_DEFAULT
        ),
        invoice_prefix=request.invoice_prefix,
        consolidation=_consolidation(request.consolidation) if request.consolidation else Consolidation.INCLUDE,
        labels=dict(request.metadata),
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
    "time_zone": domain.TIME_ZONE_DEFAULT,
    "fiscal_year_start_month": domain.FISCAL_YEAR_START_MONTH_DEFAULT,
    "payment_terms_days": domain.PAYMENT_TERMS_DAYS_DEFAULT,
    "invoice_prefix": "",
    "consolidation": Consolidation.INCLUDE,
    "metadata": {},
}
"""What each field of an entity is when it is cleared; those that are not here can't be."""

_DEPARTMENT_CLEARED: Final[Mapping[str, Any]] = {
    "cost_center": "",
    "gl_code": "",
    "manager_user_id": "",
    "headcount": 0,
}
"""What each field of a department is when it is cleared; those that are not here can't be."""

_ZERO_IS_A_VALUE: Final = frozenset({"payment_terms_days"})
"""Fields for which 0 says something else than that there is nothing."""


def entity_changes_from_proto(request: entity_service_pb2.UpdateEntityRequest) -> Mapping[str, Any]:
    """The columns that UpdateEntity changes, with their new values; raises InvalidFields."""
    changes = _changes(request, _ENTITY_CLEARED)
    if "entity_type" in changes:
        changes["entity_type"] = EntityType(Entity.Type.Name(request.entity_type))
    if changes.get("consolidation") and request.consolidation:
        changes["consolidation"] = _consolidation(request.consolidation)
    if changes.get("address"):
        changes["address"] = _address(request.address)
    if "metadata" in changes:
        changes["labels"] = dict(changes.pop("metadata"))
    return changes


def department_changes_from_proto(request: department_service_pb2.UpdateDepartmentRequest) -> Mapping[str, Any]:
    """The columns that UpdateDepartment changes, with their new values; raises InvalidFields."""
    return _changes(request, _DEPARTMENT_CLEARED)


def _changes(request: Message, cleared: Mapping[str, Any]) -> dict[str, Any]:
    """The fields to change, each as the request has it, or as it is when cleared: named and not given, or given empty.

    Raises InvalidFields for fields that can't be cleared.
    """
    named = request.ListFields()
    given = {field.name: value for field, value in named if value or field.name in _ZERO_IS_A_VALUE}
    changed = changed_fields(request)
    required = sorted(changed - cleared.keys() - given.keys())
    if required:
        raise InvalidFields([Violation(field, "can't be cleared", "required") for field in required])
    return {field: given.get(field, cleared.get(field)) for field in changed}


def department_to_proto(row: DepartmentRow) -> Department:
    """A department."""
    return Department(
        id=ids.DEPARTMENT.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        parent_id=ids.DEPARTMENT.format_optional(row.parent_id),
        code=row.code,
        name=row.name,
        cost_center=row.cost_center,
        gl_code=row.gl_code,
        manager_user_id=row.manager_user_id,
        headcount=row.headcount,
        state=Department.State.Value(row.state),
        etag=row.etag,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def department_draft_from_proto(request: department_service_pb2.CreateDepartmentRequest) -> DepartmentDraft:
    """What CreateDepartment asks for."""
    return DepartmentDraft(
        entity_id=ids.ENTITY.parse(request.entity_id, "entity_id"),
        parent_id=ids.DEPARTMENT.parse_optional(request.parent_id, "parent_id"),
        code=request.code,
        name=request.name,
        cost_center=request.cost_center,
        gl_code=request.gl_code,
        manager_user_id=request.manager_user_id,
        headcount=request.headcount,
    )


def exchange_rate_to_proto(row: ExchangeRateRow) -> ExchangeRate:
    """An exchange rate."""
    return ExchangeRate(
        base_currency=row.base_currency,
        quote_currency=row.quote_currency,
        effective_date=row.effective_date.isoformat(),
        rate=_rate_text(row.rate),
        source=row.source,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )


def _rate_text(rate: Decimal) -> str:
    """A rate above zero as a decimal string, never with an exponent, and without needless zeros."""
    text = f"{rate:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rate_drafts_from_proto(request: exchange_rate_service_pb2.SetExchangeRatesRequest) -> Sequence[RateDraft]:
    """The rates that SetExchangeRates asks for; raises InvalidFields."""
    violations = list(_rate_violations(request))
    if violations:
        raise InvalidFields(violations)
    return [
        RateDraft(
            base_currency=given.base_currency,
            quote_currency=given.quote_currency,
            effective_date=date.fromisoformat(given.effective_date),
            rate=Decimal(given.rate),
            source=given.source,
        )
        for given in request.rates
    ]


def _rate_violations(request: exchange_rate_service_pb2.SetExchangeRatesRequest) -> Iterator[Violation]:
    """What the rules of the proto can't tell: whether the currencies exist, and each pair and day is there once."""
    times = Counter(map(_pair_and_day, request.rates))
    for place, given in enumerate(request.rates):
        for field in ("base_currency", "quote_currency"):
            code: str = getattr(given, field)
            if money.exponent(code) is None:
                text = f"must be an ISO 4217 currency code such as EUR, not {code!r}"
                yield Violation(f"rates[{place}].{field}", text, "known.currency_code")
        if times[_pair_and_day(given)] > 1:
            yield Violation(f"rates[{place}]", "stands for a pair and day that is there more than once", "rate.once")


def _pair_and_day(given: exchange_rate_service_pb2.ExchangeRateInput) -> tuple[str, str, str]:
    return given.base_currency, given.quote_currency, given.effective_date


def conversions_from_proto(request: exchange_rate_service_pb2.GetRatesRequest) -> Sequence[Conversion]:
    """What GetRates asks for."""
    return [
        Conversion(wanted.from_currency, wanted.to_currency, date.fromisoformat(wanted.conversion_date))
        for wanted in request.conversions
    ]


def conversion_rate_to_proto(wanted: Conversion, found: DerivedRate | None) -> ConversionRate:
    """The rate that was found for a conversion, or that there is none."""
    derivation = found.derivation if found else domain.Derivation.MISSING
    return ConversionRate(
        from_currency=wanted.source,
        to_currency=wanted.target,
        conversion_date=wanted.day.isoformat(),
        derivation=ConversionRate.Derivation.Value(derivation),
        rate=_rate_text(found.rate) if found else "",
        rate_date=found.effective_date.isoformat() if found else "",
        via_currency=found.via if found else "",
    )
