"""From charges to lines, taxes and totals, without a database."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from random import Random
from uuid import UUID

import pytest

from kit.money import Money, unit
from services.entities.domain.billing_documents import LineKind, TaxTreatment
from services.entities.domain.consolidation import (
    BilledEntity,
    Charge,
    Consolidation,
    FeeDue,
    Names,
    TaxRules,
    average_rate,
    consolidate,
    fees_to_bill,
)
from services.entities.domain.fees import Fee
from services.entities.domain.proration import DateRange
from services.entities.domain.rates import Conversion, Derivation, DerivedRate

DAY = date(2026, 10, 31)
HOLDING, SALES, US, UK = (UUID(int=number) for number in range(1, 5))
DEPARTMENTS = [UUID(int=number) for number in range(10, 15)]
ENTITIES = {
    HOLDING: BilledEntity(id=HOLDING, code="HOLD", name="Holding", country_code="DE", tax_rate_bp=1900),
    SALES: BilledEntity(id=SALES, code="SALES", name="Sales", country_code="DE", tax_rate_bp=700),
    US: BilledEntity(id=US, code="US", name="Acme Inc", country_code="US", tax_rate_bp=0),
    UK: BilledEntity(id=UK, code="UK", name="Acme Ltd", country_code="GB", tax_rate_bp=2000),
}
NAMES = Names(
    entities=ENTITIES,
    departments={id: f"Department {id.int}" for id in DEPARTMENTS},
    contracts={UUID(int=20): ("CON-1", "Cloud")},
)
DOMESTIC = TaxRules(country_code="DE", vat_group=frozenset(), cross_border=TaxTreatment.STANDARD)
RATES = {
    Conversion(source, "EUR", DAY): DerivedRate(Derivation.DIRECT, Decimal(rate), DAY)
    for source, rate in {"USD": "0.9123", "GBP": "1.1717", "JPY": "0.006213", "KWD": "2.9871"}.items()
}


def charge(amount: str, currency: str = "EUR", entity: UUID = HOLDING, **fields: object) -> Charge:
    defaults: dict[str, object] = {
        "kind": LineKind.ALLOCATIONS, "entity_id": entity, "department_id": None, "gl_code": "6200",
        "contract_id": None, "supplier_id": None, "original": Money(Decimal(amount), currency),
        "booked": Money(Decimal(amount), currency), "day": DAY, "first_date": DAY, "last_date": DAY,
    }  # fmt: skip
    return Charge(**{**defaults, **fields})  # type: ignore[arg-type]


def build(charges: Sequence[Charge], rules: TaxRules = DOMESTIC, currency: str = "EUR") -> Consolidation:
    return consolidate(charges, RATES, currency, NAMES, rules)


def amounts(content: Consolidation) -> list[tuple[str, str]]:
    return [(line.kind.value, str(line.amount)) for line in content.lines]


class TestRounding:
    def test_the_difference_to_the_exact_sum_is_a_line_of_its_own(self) -> None:
        content = build([charge("10.01", "USD", department_id=id) for id in DEPARTMENTS[:3]])
        assert amounts(content) == [("ALLOCATIONS", "9.13")] * 3 + [("ROUNDING", "0.01")]
        assert (content.net, content.tax, content.total) == (Decimal("27.40"), Decimal("5.21"), Decimal("32.61"))

    def test_a_line_is_rounded_half_to_even(self) -> None:
        rates = {Conversion("USD", "EUR", DAY): DerivedRate(Derivation.DIRECT, Decimal("0.5"), DAY)}
        content = consolidate([charge("0.01", "USD"), charge("0.03", "USD", SALES)], rates, "EUR", NAMES, DOMESTIC)
        assert amounts(content) == [("ALLOCATIONS", "0.00"), ("ALLOCATIONS", "0.02")]

    @pytest.mark.parametrize("currency", ["JPY", "EUR", "KWD"])
    def test_rounding_lines_are_at_most_half_a_unit_for_each_line(self, currency: str) -> None:
        random = Random(7)  # noqa: S311 - test data
        rates = {
            Conversion(source, currency, DAY): DerivedRate(
                Derivation.DIRECT, Decimal(random.randrange(1, 10**9)) / 10**6, DAY
            )
            for source in ("USD", "GBP", "CHF")
        }
        for _ in range(300):
            charges = random_charges(random, ("USD", "GBP", "CHF"))
            content = consolidate(charges, rates, currency, NAMES, DOMESTIC)
            by_tax = {each.tax: 0 for each in content.lines}
            for line in content.lines:
                by_tax[line.tax] += line.kind is not LineKind.ROUNDING
            for line in content.lines:
                if line.kind is LineKind.ROUNDING:
                    assert abs(line.amount) <= unit(currency) / 2 * by_tax[line.tax] + unit(currency) / 2


def random_charges(random: Random, currencies: Sequence[str]) -> list[Charge]:
    return [
        charge(
            f"{random.choice([1, 1, 1, -1]) * Decimal(random.randrange(1, 10 ** random.randrange(1, 9))) / 100}",
            random.choice(currencies),
            random.choice(list(ENTITIES)),
            department_id=random.choice([None, *DEPARTMENTS]),
            gl_code=random.choice(["", "6200", "6300"]),
            id=UUID(int=random.getrandbits(128)),
        )
        for _ in range(random.randrange(1, 30))
    ]


class TestSums:
    def test_the_total_is_the_sum_of_lines_and_of_taxes_in_any_order_of_charges(self) -> None:
        random = Random(11)  # noqa: S311 - test data
        for _ in range(500):
            charges = random_charges(random, ("EUR", "USD", "GBP", "JPY", "KWD"))
            content = build(charges)
            assert content.net == sum(line.amount for line in content.lines) == sum(tax.net for tax in content.taxes)
            assert content.tax == sum(tax.tax for tax in content.taxes)
            assert content.total == content.net + content.tax
            shuffled = random.sample(charges, len(charges))
            assert build(shuffled) == content

    def test_the_net_amount_does_not_depend_on_the_grouping(self) -> None:
        random = Random(13)  # noqa: S311 - test data
        for _ in range(200):
            charges = random_charges(random, ("USD", "GBP"))
            of_one_entity = [charge(f"{each.original.amount:f}", each.original.currency) for each in charges]
            grouped = [
                charge(f"{each.original.amount:f}", each.original.currency, department_id=each.department_id)
                for each in charges
            ]
            assert build(of_one_entity).net == build(grouped).net

    def test_charges_that_cancel_make_a_line_of_zero(self) -> None:
        content = build([charge("12.50"), charge("-12.50")])
        assert amounts(content) == [("ALLOCATIONS", "0.00")]
        assert content.total == 0


class TestTaxes:
    def test_tax_is_computed_on_the_sum_of_the_lines(self) -> None:
        rules = TaxRules(country_code="GB", vat_group=frozenset(), cross_border=TaxTreatment.STANDARD)
        lines = [
            charge(amount, entity=UK, department_id=id)
            for amount, id in zip(("68.33", "68.33", "57.50", "85.00"), DEPARTMENTS, strict=False)
        ]
        content = build(lines, rules)
        assert (content.net, content.tax, content.total) == (Decimal("279.16"), Decimal("55.83"), Decimal("334.99"))

    def test_half_a_unit_is_rounded_away_from_zero(self) -> None:
        assert build([charge("0.50", entity=SALES)]).tax == Decimal("0.04")
        assert build([charge("-0.50", entity=SALES)]).tax == Decimal("-0.04")

    def test_the_treatment_follows_the_entity(self) -> None:
        rules = TaxRules(country_code="DE", vat_group=frozenset({SALES}), cross_border=TaxTreatment.REVERSE_CHARGE)
        content = build([charge("100", entity=id) for id in ENTITIES], rules)
        assert [(line.entity.code, *line.tax) for line in content.lines if line.entity] == [
            ("HOLD", "STANDARD", 1900), ("SALES", "NOT_SUBJECT", 0), ("US", "REVERSE_CHARGE", 0),
            ("UK", "REVERSE_CHARGE", 0),
        ]  # fmt: skip

    def test_a_rate_of_zero_is_exempt(self) -> None:
        (line,) = build([charge("100", entity=US)]).lines
        assert line.tax == (TaxTreatment.EXEMPT, 0)


class TestEliminations:
    def test_charges_between_entities_are_not_billed_and_shown_with_both_sides(self) -> None:
        internal = charge("100.00", "GBP", US, supplier_id=UK, booked=Money(Decimal("128.50"), "USD"), id=UUID(int=30))
        content = build([charge("50.00"), internal])
        (elimination,) = content.eliminations
        assert (elimination.supplier.code, elimination.buyer.code) == ("UK", "US")
        assert elimination.supplier_amount == Decimal("117.17")
        assert elimination.buyer_amount == Decimal("117.23")
        assert amounts(content) == [("ALLOCATIONS", "50.00"), ("EXCHANGE_DIFFERENCE", "0.06")]
        assert content.net == Decimal("50.06")
        assert content.tax == Decimal("9.50")

    def test_sides_that_were_converted_at_the_same_rate_cancel(self) -> None:
        internal = charge("100.00", "GBP", UK, supplier_id=US, id=UUID(int=30))
        content = build([charge("50.00"), internal])
        assert amounts(content) == [("ALLOCATIONS", "50.00")]

    def test_the_exchange_difference_is_not_subject_on_a_statement_of_internal_charges(self) -> None:
        rules = TaxRules(country_code="DE", vat_group=frozenset(ENTITIES), cross_border=TaxTreatment.STANDARD)
        internal = charge("100.00", "GBP", US, supplier_id=UK, booked=Money(Decimal("128.50"), "USD"))
        assert {line.tax.treatment for line in build([charge("50.00"), internal], rules).lines} == {
            TaxTreatment.NOT_SUBJECT
        }


class TestFees:
    OCTOBER = DateRange(date(2026, 10, 1), date(2026, 11, 1))

    def test_due_dates_of_a_contract_are_one_line(self) -> None:
        fees = [FeeDue(date(2026, month, 8), Money(Decimal("3950.00"), "EUR")) for month in (4, 5)]
        content = build(
            [
                charge(
                    "3950.00", kind=LineKind.CONTRACT_FEE, contract_id=UUID(int=20), fee=fee, first_date=fee.due_date
                )
                for fee in fees
            ]
        )
        (line,) = content.lines
        assert line.description == "Cloud: fees due 2026-04-08, 2026-05-08"
        assert (line.amount, list(line.fees)) == (Decimal("7900.00"), fees)

    @pytest.mark.parametrize(
        ("due", "billed", "difference"),
        [("100.00", "", "100.00"), ("100.00", "100.00", ""), ("60.00", "100.00", "-40.00"), ("", "100.00", "-100.00")],
    )
    def test_the_change_of_a_billed_fee_is_billed(self, due: str, billed: str, difference: str) -> None:
        day = date(2026, 10, 5)
        due_fees = [Fee(day, Money(Decimal(due), "EUR"))] if due else []
        before = {day: Money(Decimal(billed), "EUR")} if billed else {}
        assert [fee.amount.text() for fee in fees_to_bill(due_fees, before, self.OCTOBER)] == [
            *filter(None, [difference])
        ]

    def test_fees_that_were_billed_for_days_before_are_left_alone(self) -> None:
        before = {date(2026, 9, 5): Money(Decimal(100), "EUR")}
        assert fees_to_bill([], before, self.OCTOBER) == []


def test_an_average_rate_is_the_mean_of_its_days() -> None:
    rates = [
        DerivedRate(Derivation.DIRECT, Decimal(rate), date(2026, 10, day))
        for rate, day in (("1.00", 1), ("1.00", 1), ("1.01", 3))
    ]
    average = average_rate(rates)
    assert average.rate == Decimal("1.00333333333333333")
    assert average.effective_date == date(2026, 10, 3)
