"""Use cases of building the content of an invoice: collect its charges and rates, and consolidate them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

from kit import ids
from kit.db import WriteSession
from kit.rates import RateMissing
from services.entities import domain, service, store
from services.entities.domain.billing_documents import AppliedDocumentRate, RatePolicy
from services.entities.domain.consolidation import (
    BilledEntity,
    Charge,
    Consolidation,
    Names,
    TaxRules,
)
from services.entities.domain.departments import DepartmentState
from services.entities.domain.entities import Consolidation as ConsolidationMode
from services.entities.domain.entities import EntityState
from services.entities.domain.invoices import InvoiceProblem, Severity
from services.entities.domain.proration import DateRange
from services.entities.domain.rates import Conversion, Derivation, DerivedRate
from services.entities.models.contracts import ContractRow
from services.entities.models.entities import DepartmentRow, EntityColumns


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsolidationRequest:
    """What to consolidate."""

    invoice_id: UUID
    entity_id: UUID
    period: DateRange
    currency: str
    issuer_currency: str
    policy: RatePolicy
    tax_rules: TaxRules
    today: date
    lenient: bool
    """True to list missing rates as problems and leave out their amounts, instead of raising RateMissing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsolidationResult:
    """The content of an invoice, and the facts that it was made of."""

    content: Consolidation
    entity_ids: Sequence[UUID]
    contracts: Sequence[ContractRow]
    """Those with a fee."""
    rates: Sequence[AppliedDocumentRate]
    issuer_rate: DerivedRate | None
    """The rate to the issuer's currency; None if that is the currency of the invoice, or if it is missing."""
    problems: Sequence[InvoiceProblem]


async def build(tx: WriteSession, request: ConsolidationRequest) -> ConsolidationResult:
    """Take everything that is to be billed, and return the content of the invoice.

    Raises EntityNotFound and, unless `lenient`, RateMissing.
    """
    entities = await _find_entities(tx, request.entity_id)
    first_days = await store.invoices.find_first_billed(tx, list(entities))
    first_days = {id: min(first_days.get(id, request.period.start), request.period.start) for id in entities}
    day = domain.costs.conversion_date(request.period.end, request.today)
    by_day = request.policy is RatePolicy.TRANSACTION_DATE
    contracts = await store.invoices.find_contracts(tx, list(entities), request.period.end)
    charges = [
        *await store.unbilled.take(tx, request.invoice_id, first_days, request.period.end, by_day=by_day, day=day),
        *await _fee_charges(tx, contracts, first_days, request.period.end, None if by_day else day),
    ]
    departments = await store.invoices.find_departments(
        tx, {charge.department_id for charge in charges if charge.department_id}
    )
    rates, missing = await _find_rates(tx, request, charges, day)
    if missing and not request.lenient:
        raise missing[0]
    names = Names(
        entities={id: _billed(entity) for id, entity in entities.items()},
        departments={department.id: department.name for department in departments},
        contracts={contract.id: (contract.contract_number, contract.name) for contract in contracts},
    )
    convertible = [
        charge for charge in charges if domain.consolidation.conversions(charge, request.currency) <= rates.keys()
    ]
    with_fees = {charge.contract_id for charge in charges}
    return ConsolidationResult(
        content=domain.consolidation.consolidate(convertible, rates, request.currency, names, request.tax_rules),
        entity_ids=list(entities),
        contracts=[contract for contract in contracts if contract.id in with_fees],
        rates=[
            AppliedDocumentRate(
                source=conversion.source,
                target=conversion.target,
                rate=rate.rate,
                day=conversion.day,
                effective_date=rate.effective_date,
            )
            for conversion, rate in sorted(rates.items(), key=lambda item: (item[0].source, item[0].day))
        ],
        issuer_rate=rates.get(Conversion(request.currency, request.issuer_currency, day)),
        problems=[*_rate_problems(missing), *_inactive(entities.values(), departments, charges)],
    )


async def _find_entities(tx: WriteSession, entity_id: UUID) -> Mapping[UUID, EntityColumns]:
    """Return the entity and those below it that are on its invoice, parents first."""
    nodes = await store.hierarchies.get(tx, entity_id, depth_max=0)
    columns = {entity.id: entity for entity in await store.hierarchies.find_columns(tx, [node.id for node in nodes])}
    included = {entity_id: columns[entity_id]}
    for node in nodes:
        if node.parent_id in included and columns[node.id].consolidation == ConsolidationMode.INCLUDE:
            included[node.id] = columns[node.id]
    return included


def _billed(entity: EntityColumns) -> BilledEntity:
    return BilledEntity(
        id=entity.id,
        code=entity.code,
        name=entity.display_name or entity.legal_name,
        country_code=entity.country_code,
        tax_rate_bp=entity.tax_rate_bp,
    )


async def _fee_charges(
    tx: WriteSession, contracts: Sequence[ContractRow], first_days: Mapping[UUID, date], end: date, day: date | None
) -> list[Charge]:
    """Return the fees that fall due and are not billed yet, and the changes of fees that were billed before."""
    billed = await store.invoices.sum_billed_fees(tx, [contract.id for contract in contracts])
    charges = []
    for contract in contracts:
        dates = DateRange(first_days[contract.entity_id], end)
        due = domain.fees.fees_due(domain.fees.build_plan(contract.terms, contract.termination_date), dates)
        charges += [
            domain.consolidation.fee_charge(contract.entity_id, contract.id, fee, day or fee.due_date)
            for fee in domain.consolidation.fees_to_bill(due, billed.get(contract.id, {}), dates)
        ]
    return charges


async def _find_rates(
    tx: WriteSession, request: ConsolidationRequest, charges: Iterable[Charge], day: date
) -> tuple[Mapping[Conversion, DerivedRate], Sequence[RateMissing]]:
    """Return the rates of all conversions by the policy of the invoice, and an error for each that is missing."""
    needed = {
        conversion for charge in charges for conversion in domain.consolidation.conversions(charge, request.currency)
    }
    if request.issuer_currency != request.currency:
        needed.add(Conversion(request.currency, request.issuer_currency, day))
    days = list(_days(request, day))
    averaged = request.policy is RatePolicy.PERIOD_AVERAGE
    parts = {
        each: [Conversion(each.source, each.target, part) for part in days] if averaged else [each] for each in needed
    }
    wanted = sorted({part for each in parts.values() for part in each}, key=lambda each: (each.day, each.source))
    found = dict(zip(wanted, await service.rates.find(tx, wanted), strict=True)) if wanted else {}
    rates, missing = {}, []
    for conversion in sorted(needed, key=lambda each: (each.source, each.target, each.day)):
        of_days = [found[part] for part in parts[conversion]]
        known = [rate for rate in of_days if rate is not None]
        if len(known) == len(of_days):
            rates[conversion] = domain.consolidation.average_rate(known)
        else:
            part = parts[conversion][of_days.index(None)]
            missing.append(RateMissing(part.source, to=part.target, on=part.day))
    return rates, missing


def _days(request: ConsolidationRequest, last: date) -> Iterator[date]:
    """Yield the days of the period until `last`."""
    day = request.period.start
    while day <= max(last, request.period.start):
        yield day
        day += timedelta(days=1)


def _rate_problems(missing: Iterable[RateMissing]) -> Iterator[InvoiceProblem]:
    for error in missing:
        yield InvoiceProblem(Severity.ERROR, error.reason, str(error))


def _inactive(
    entities: Iterable[EntityColumns], departments: Iterable[DepartmentRow], charges: Collection[Charge]
) -> Iterator[InvoiceProblem]:
    """Yield warnings about charges of entities and departments that are not active any more."""
    charged = {charge.entity_id for charge in charges}
    for entity in entities:
        if entity.state == EntityState.INACTIVE and entity.id in charged:
            text = f"The entity {entity.code} is inactive and still has charges; they are billed."
            yield InvoiceProblem(Severity.WARNING, "ENTITY_INACTIVE", text, ids.ENTITY.format(entity.id))
    for department in departments:
        if department.state is DepartmentState.INACTIVE:
            text = f"The department {department.code} is inactive and still has costs; they are billed."
            yield InvoiceProblem(Severity.WARNING, "DEPARTMENT_INACTIVE", text, ids.DEPARTMENT.format(department.id))


def issuer_tax(result: ConsolidationResult, request: ConsolidationRequest) -> Decimal | None:
    """Return the tax in the issuer's currency; None if that is the currency of the invoice, or without a rate."""
    if result.issuer_rate is None or result.issuer_rate.derivation is Derivation.SAME:
        return None
    return domain.consolidation.convert_tax(result.content.tax, result.issuer_rate.rate, request.issuer_currency)
