"""Consolidation: from the charges of a group to the lines, taxes and totals of its invoice.

The steps are collect (in `store`), convert, eliminate, tax, group and round. Sums stay exact until each line is rounded
half to even to the unit of the currency. For each tax treatment and rate, the rounded exact sum minus the sum of the
rounded lines is a line of its own, so the total does not depend on how costs are grouped. Tax is computed on the sum of
the lines and rounded half away from zero.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Final, NamedTuple
from uuid import UUID

from kit.money import BP, Money, round_to
from services.entities import domain
from services.entities.domain.billing_documents import LineKind, TaxSubtotal, TaxTreatment
from services.entities.domain.fees import Fee
from services.entities.domain.proration import DateRange
from services.entities.domain.rates import Conversion, DerivedRate

_EXACT: Final = Context(prec=80)
"""Enough for sums of products of an amount and a rate to be exact."""
_DUE_DATES_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class FeeDue:
    """A fee of a contract, or the change of a fee that was billed before."""

    due_date: date
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A sum of allocations with the same entity, department, GL code, supplier and currency, or a fee of a contract."""

    kind: LineKind
    """ALLOCATIONS or CONTRACT_FEE."""
    entity_id: UUID
    department_id: UUID | None
    gl_code: str
    contract_id: UUID | None
    """Of a fee."""
    supplier_id: UUID | None
    """The entity of the invoice that made the charge, which is therefore eliminated; None if it came from outside."""
    original: Money
    booked: Money
    """In the currency of the entity."""
    day: date
    """The day at whose rate it is converted."""
    first_date: date
    last_date: date
    id: UUID | None = None
    """Of stored allocations."""
    item_count: int = 1
    fee: FeeDue | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledEntity:
    """An entity of the invoice."""

    id: UUID
    code: str
    name: str
    country_code: str
    tax_rate_bp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxRules:
    """How the issuer taxes the charges of an entity."""

    country_code: str
    """Of the issuer."""
    vat_group: frozenset[UUID]
    """Entities in the issuer's VAT group."""
    cross_border: TaxTreatment
    """Treatment of entities in other countries."""


class TaxKey(NamedTuple):
    """Lines with the same key are taxed together."""

    treatment: TaxTreatment
    rate_bp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names to copy onto the invoice, and the entities in the order of the lines."""

    entities: Mapping[UUID, BilledEntity]
    """Parents before their children."""
    departments: Mapping[UUID, str]
    contracts: Mapping[UUID, tuple[str, str]]
    """Number and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineDraft:
    """A line of an invoice to be stored; see InvoiceLineRow."""

    kind: LineKind
    description: str
    amount: Decimal
    tax: TaxKey
    entity: BilledEntity | None = None
    department_id: UUID | None = None
    department_name: str = ""
    gl_code: str = ""
    contract_id: UUID | None = None
    contract_number: str = ""
    original: Money | None = None
    rate: Decimal | None = None
    first_date: date | None = None
    last_date: date | None = None
    charge_ids: Sequence[UUID] = ()
    fees: Sequence[FeeDue] = ()
    item_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EliminationDraft:
    """Eliminated charges of one supplier to one buyer in one currency."""

    supplier: BilledEntity
    buyer: BilledEntity
    original: Money
    supplier_amount: Decimal
    booked: Money
    buyer_amount: Decimal
    charge_ids: Sequence[UUID]
    allocation_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Consolidation:
    """The content of an invoice."""

    lines: Sequence[LineDraft]
    eliminations: Sequence[EliminationDraft]
    taxes: Sequence[TaxSubtotal]
    net: Decimal
    tax: Decimal

    @property
    def total(self) -> Decimal:
        """Net and tax."""
        return self.net + self.tax

    def amounts(self) -> Iterator[Decimal]:
        """Yield all amounts that are stored."""
        yield from (self.net, self.tax, self.total)
        for line in self.lines:
            yield line.amount
            if line.original:
                yield line.original.amount
        for each in self.eliminations:
            yield from (each.original.amount, each.supplier_amount, each.booked.amount, each.buyer_amount)


class _LineKey(NamedTuple):
    kind: LineKind
    entity_id: UUID
    department_id: UUID | None
    gl_code: str
    contract_id: UUID | None
    currency: str


@dataclass(slots=True)
class _Group:
    """Charges of one line, with their exact sum in the currency of the invoice."""

    charges: list[Charge] = field(default_factory=list)
    exact: Decimal = Decimal(0)
    rates: set[Decimal] = field(default_factory=set)

    def add(self, charge: Charge, rate: Decimal) -> None:
        self.charges.append(charge)
        self.exact = _EXACT.fma(charge.original.amount, rate, self.exact)
        self.rates.add(rate)


Rates = Mapping[Conversion, DerivedRate]


def consolidate(
    charges: Iterable[Charge], rates: Rates, currency: str, names: Names, tax_rules: TaxRules
) -> Consolidation:
    """Return the content of an invoice in `currency`; it does not depend on the order of the charges.

    `rates` has the rate from the original currency of each charge on its day and, for charges between entities of the
    invoice, also that from the booked currency.
    """
    tax_keys = {id: tax_of(entity, tax_rules) for id, entity in names.entities.items()}
    return consolidate_taxed(charges, rates, currency, names, tax_keys)


def consolidate_taxed(
    charges: Iterable[Charge], rates: Rates, currency: str, names: Names, tax_keys: Mapping[UUID, TaxKey]
) -> Consolidation:
    """Return the content of an invoice as `consolidate` does, with the treatment and rate of each entity."""
    billed, internal = defaultdict[_LineKey, _Group](_Group), list[Charge]()
    for charge in charges:
        if charge.supplier_id is not None:
            internal.append(charge)
            continue
        key = _LineKey(
            charge.kind, charge.entity_id, charge.department_id, charge.gl_code, charge.contract_id,
            charge.original.currency,
        )  # fmt: skip
        billed[key].add(charge, _rate(rates, charge.original, currency, charge.day))
    taxed = {key: tax_keys[key.entity_id] for key in billed}
    order = {id: position for position, id in enumerate(names.entities)}
    keys = sorted(billed, key=lambda key: _line_order(key, order, names))
    lines = [_line(key, billed[key], taxed[key], currency, names) for key in keys]
    lines += _rounding_lines({key: billed[key].exact for key in keys}, taxed, lines, currency)
    eliminations, difference = _eliminate(internal, rates, currency, names, order)
    if difference:
        lines.append(_exchange_difference(difference, lines))
    taxes = tax_subtotals([(line.tax, line.amount) for line in lines], currency)
    net, tax = sum((each.net for each in taxes), Decimal(0)), sum((each.tax for each in taxes), Decimal(0))
    return Consolidation(lines=lines, eliminations=eliminations, taxes=taxes, net=net, tax=tax)


def fee_charge(entity_id: UUID, contract_id: UUID, fee: FeeDue, day: date) -> Charge:
    """Return the charge of a fee, which is converted on `day`."""
    return Charge(
        kind=LineKind.CONTRACT_FEE,
        entity_id=entity_id,
        department_id=None,
        gl_code="",
        contract_id=contract_id,
        supplier_id=None,
        original=fee.amount,
        booked=fee.amount,
        day=day,
        first_date=fee.due_date,
        last_date=fee.due_date,
        fee=fee,
    )


def conversions(charge: Charge, currency: str) -> set[Conversion]:
    """Return the conversions that a charge needs on an invoice in `currency`."""
    amounts = [charge.original] if charge.supplier_id is None else [charge.original, charge.booked]
    return {Conversion(amount.currency, currency, charge.day) for amount in amounts if amount.currency != currency}


def tax_of(entity: BilledEntity, rules: TaxRules) -> TaxKey:
    """Return the tax treatment and rate of the charges of an entity."""
    if entity.id in rules.vat_group:
        return TaxKey(TaxTreatment.NOT_SUBJECT, 0)
    if entity.country_code != rules.country_code and rules.cross_border is not TaxTreatment.STANDARD:
        return TaxKey(rules.cross_border, 0)
    if not entity.tax_rate_bp:
        return TaxKey(TaxTreatment.EXEMPT, 0)
    return TaxKey(TaxTreatment.STANDARD, entity.tax_rate_bp)


def tax_subtotals(amounts: Iterable[tuple[TaxKey, Decimal]], currency: str) -> list[TaxSubtotal]:
    """Return net and tax by treatment and rate, sorted; tax is rounded half away from zero on the sum."""
    nets = defaultdict[TaxKey, Decimal](Decimal)
    for key, amount in amounts:
        nets[key] += amount
    return [
        TaxSubtotal(treatment=key.treatment, tax_rate_bp=key.rate_bp, net=net, tax=tax_amount(net, key, currency))
        for key, net in sorted(nets.items())
    ]


def tax_amount(net: Decimal, key: TaxKey, currency: str) -> Decimal:
    """Return the tax on a net amount, rounded half away from zero to the unit of the currency."""
    return round_to(net * key.rate_bp / BP, currency, ROUND_HALF_UP)


def _rate(rates: Rates, amount: Money, currency: str, day: date) -> Decimal:
    return Decimal(1) if amount.currency == currency else rates[Conversion(amount.currency, currency, day)].rate


def _line_order(key: _LineKey, order: Mapping[UUID, int], names: Names) -> tuple[object, ...]:
    department = names.departments[key.department_id] if key.department_id else ""
    contract = names.contracts[key.contract_id][0] if key.contract_id else ""
    position = order[key.entity_id]
    return position, key.kind, department, str(key.department_id), key.gl_code, contract, key.currency


def _line(key: _LineKey, group: _Group, tax: TaxKey, currency: str, names: Names) -> LineDraft:
    charges = sorted(group.charges, key=lambda charge: (charge.first_date, str(charge.id)))
    number, name = names.contracts[key.contract_id] if key.contract_id else ("", "")
    fees = [charge.fee for charge in charges if charge.fee]
    (rate,) = group.rates if len(group.rates) == 1 else (None,)
    return LineDraft(
        kind=key.kind,
        description=f"{name}: fees due {_due_dates(fees)}" if fees else "Allocated costs",
        amount=round_to(group.exact, currency),
        tax=tax,
        entity=names.entities[key.entity_id],
        department_id=key.department_id,
        department_name=names.departments[key.department_id] if key.department_id else "",
        gl_code=key.gl_code,
        contract_id=key.contract_id,
        contract_number=number,
        original=Money(sum((charge.original.amount for charge in charges), Decimal(0)), key.currency),
        rate=None if key.currency == currency else rate,
        first_date=min(charge.first_date for charge in charges),
        last_date=max(charge.last_date for charge in charges),
        charge_ids=[charge.id for charge in charges if charge.id],
        fees=fees,
        item_count=sum(charge.item_count for charge in charges),
    )


def _due_dates(fees: Sequence[FeeDue]) -> str:
    days = [fee.due_date.isoformat() for fee in fees]
    return ", ".join(days) if len(days) <= _DUE_DATES_SHOWN else f"{days[0]} to {days[-1]}"


def _rounding_lines(
    exact: Mapping[_LineKey, Decimal], taxed: Mapping[_LineKey, TaxKey], lines: Sequence[LineDraft], currency: str
) -> list[LineDraft]:
    differences = defaultdict[TaxKey, Decimal](Decimal)
    for key, amount in exact.items():
        differences[taxed[key]] = _EXACT.add(differences[taxed[key]], amount)
    differences = defaultdict(Decimal, {tax: round_to(total, currency) for tax, total in differences.items()})
    for line in lines:
        differences[line.tax] -= line.amount
    return [
        LineDraft(kind=LineKind.ROUNDING, description="Rounding difference", amount=difference, tax=tax)
        for tax, difference in sorted(differences.items())
        if difference
    ]


def _eliminate(
    charges: Iterable[Charge], rates: Rates, currency: str, names: Names, order: Mapping[UUID, int]
) -> tuple[list[EliminationDraft], Decimal]:
    """Return the eliminated charges, and the rounded sum of the buyers' amounts minus the suppliers'."""
    groups = defaultdict[tuple[UUID, UUID, str, str], list[Charge]](list)
    for charge in charges:
        if charge.supplier_id:
            key = charge.supplier_id, charge.entity_id, charge.original.currency, charge.booked.currency
            groups[key].append(charge)
    eliminations, difference = [], Decimal(0)
    for key in sorted(groups, key=lambda key: (order[key[0]], order[key[1]], key[2:])):
        members = sorted(groups[key], key=lambda charge: (charge.first_date, str(charge.id)))
        supplier_amount = _converted([(each.original, each.day) for each in members], rates, currency)
        buyer_amount = _converted([(each.booked, each.day) for each in members], rates, currency)
        difference = _EXACT.add(difference, _EXACT.subtract(buyer_amount, supplier_amount))
        eliminations.append(
            EliminationDraft(
                supplier=names.entities[key[0]],
                buyer=names.entities[key[1]],
                original=Money(sum((each.original.amount for each in members), Decimal(0)), key[2]),
                supplier_amount=round_to(supplier_amount, currency),
                booked=Money(sum((each.booked.amount for each in members), Decimal(0)), key[3]),
                buyer_amount=round_to(buyer_amount, currency),
                charge_ids=[each.id for each in members if each.id],
                allocation_count=sum(each.item_count for each in members),
            )
        )
    return eliminations, round_to(difference, currency)


def _converted(amounts: Iterable[tuple[Money, date]], rates: Rates, currency: str) -> Decimal:
    total = Decimal(0)
    for amount, day in amounts:
        total = _EXACT.fma(amount.amount, _rate(rates, amount, currency, day), total)
    return total


def _exchange_difference(amount: Decimal, lines: Sequence[LineDraft]) -> LineDraft:
    # It is no supply, so it carries no tax. NOT_SUBJECT can't stand beside other treatments (EN 16931, BR-O-11).
    only_internal = all(line.tax.treatment is TaxTreatment.NOT_SUBJECT for line in lines)
    treatment = TaxTreatment.NOT_SUBJECT if only_internal else TaxTreatment.EXEMPT
    return LineDraft(
        kind=LineKind.EXCHANGE_DIFFERENCE,
        description="Exchange difference of eliminated charges",
        amount=amount,
        tax=TaxKey(treatment, 0),
    )


def convert_tax(tax: Decimal, rate: Decimal, currency: str) -> Decimal:
    """Return the tax in another currency, rounded half away from zero as taxes are."""
    return round_to(_EXACT.multiply(tax, rate), currency, ROUND_HALF_UP)


def average_rate(rates: Sequence[DerivedRate]) -> DerivedRate:
    """Return the mean of the rates, rounded half to even to RATE_DIGITS; its date is that of the newest one."""
    if len(rates) == 1:
        return rates[0]
    total = sum((Fraction(each.rate) for each in rates), Fraction(0))
    newest = max(rates, key=lambda each: each.effective_date)
    return replace(newest, rate=domain.rates.round_rate(total / len(rates)))


def fees_to_bill(due: Iterable[Fee], billed: Mapping[date, Money], dates: DateRange) -> list[FeeDue]:
    """Return what is to be billed for the due dates in `dates`, in their order: what is due minus what was billed.

    A fee that an earlier invoice billed and that changed since, because the contract was amended or ends earlier, leads
    to its difference.
    """
    amounts = {fee.due_date: fee.amount for fee in due}
    changes = []
    for day in sorted({*amounts, *(day for day in billed if dates.start <= day < dates.end)}):
        known = amounts.get(day) or billed[day]
        zero = Money.zero(known.currency)
        difference = amounts.get(day, zero) - billed.get(day, zero)
        if difference.amount:
            changes.append(FeeDue(day, difference))
    return changes
