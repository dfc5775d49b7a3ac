"""Amounts of credit notes: exact by running totals, never above the invoice, split without a remainder."""

import random
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final
from uuid import UUID

import pytest

from kit import ids
from kit.money import Money, unit
from services.entities import domain
from services.entities.domain.billing_documents import TaxSubtotal, TaxTreatment
from services.entities.domain.consolidation import TaxKey
from services.entities.domain.credit_notes import (
    CreditableGroup,
    CreditableInvoice,
    CreditableLine,
    CreditNoteAmounts,
    CreditSplit,
    SplitRequest,
)
from services.entities.errors.credit_notes import (
    CreditBelowZero,
    CreditExceedsInvoice,
    CreditExceedsLine,
    HoldExceedsLine,
    OffsetExceedsOpen,
    RefundExceedsPaid,
)

STANDARD: Final = TaxTreatment.STANDARD
ZERO: Final = Decimal(0)
SEEDS: Final = range(4)
SEQUENCES: Final = 25_000
"""Per seed, so that workers share them."""
RATES: Final = (700, 1900, 2000, 2550, 1, 9999)
CURRENCIES: Final = ("EUR", "EUR", "JPY", "KWD")


LINE_IDS: Final = [ids.uuid_of(f"{number:032x}") for number in range(10)]


def line_id(number: int) -> UUID:
    """The id of a line by its number."""
    return LINE_IDS[number]


def invoice_of(*lines: tuple[str, TaxKey], currency: str = "EUR") -> CreditableInvoice:
    """An invoice of lines with these net amounts, treatments and rates; its tax as an invoice computes it."""
    nets: dict[TaxKey, Decimal] = {}
    for net, group in lines:
        nets[group] = nets.get(group, ZERO) + Decimal(net)
    groups = [
        CreditableGroup(
            subtotal=TaxSubtotal(
                treatment=group[0],
                tax_rate_bp=group[1],
                net=net,
                tax=domain.consolidation.tax_amount(net, group, currency),
            )
        )
        for group, net in nets.items()
    ]
    creditable = [
        CreditableLine(id=line_id(number), number=number, net=Decimal(net), tax_key=group)
        for number, (net, group) in enumerate(lines, 1)
    ]
    return CreditableInvoice(currency=currency, lines=creditable, groups=groups)


def credit(
    invoice: CreditableInvoice, *amounts: tuple[int, str], holds: dict[int, str] | None = None
) -> tuple[CreditNoteAmounts, CreditableInvoice]:
    """Credit net amounts of lines by number; return the note and the invoice after it."""
    nets = {line_id(number): Decimal(net) for number, net in amounts}
    held = None if holds is None else {line_id(number): Decimal(net) for number, net in holds.items()}
    note = domain.credit_notes.credit_lines(invoice, nets, held)
    return note, after(invoice, note)


def after(invoice: CreditableInvoice, note: CreditNoteAmounts) -> CreditableInvoice:
    """The invoice after a credit note."""
    credited = {line.id: net for line, net in note.lines}
    nets = {TaxKey(each.treatment, each.tax_rate_bp): each.net for each in note.taxes}
    return CreditableInvoice(
        currency=invoice.currency,
        lines=[
            replace(line, credited=line.credited + credited[line.id]) if line.id in credited else line
            for line in invoice.lines
        ],
        groups=[
            CreditableGroup(subtotal=group.subtotal, credited=group.credited + nets.get(group.key, ZERO))
            for group in invoice.groups
        ],
    )


def at(rate_bp: int) -> TaxKey:
    """The group of lines with the standard treatment and this rate."""
    return TaxKey(STANDARD, rate_bp)


class TestPartialCredits:
    def test_four_notes_of_one_line_each_end_exactly_at_the_invoice(self) -> None:
        invoice = invoice_of(*((net, at(2000)) for net in ("68.33", "68.33", "57.50", "85.00")))
        subtotal = invoice.groups[0].subtotal
        assert (subtotal.net, subtotal.tax, invoice.total) == (
            Decimal("279.16"), Decimal("55.83"), Decimal("334.99"),
        )  # fmt: skip
        notes = []
        for number, net in ((1, "68.33"), (3, "57.50"), (4, "85.00"), (2, "68.33")):
            note, invoice = credit(invoice, (number, net))
            notes.append(note)
        assert [note.total for note in notes] == [Decimal(gross) for gross in ("82.00", "69.00", "102.00", "81.99")]
        assert sum(note.tax for note in notes) == Decimal("55.83")
        with pytest.raises(CreditExceedsLine) as refusal:
            credit(invoice, (1, "0.01"))
        assert refusal.value.metadata["line_number"] == "1"
        assert refusal.value.metadata["remaining"] == "0.00"

    def test_a_rounding_line_can_be_credited_like_any_other(self) -> None:
        invoice = invoice_of(*[("9.13", at(1900))] * 3, ("0.01", at(1900)))
        assert invoice.total == Decimal("32.61")
        totals = []
        for number, net in ((4, "0.01"), (1, "9.13"), (2, "9.13"), (3, "9.13")):
            note, invoice = credit(invoice, (number, net))
            totals.append(note.total)
        assert totals == [Decimal(total) for total in ("0.01", "10.87", "10.86", "10.87")]
        assert sum(totals) == Decimal("32.61")

    def test_one_unit_above_the_rest_of_a_line_is_refused(self) -> None:
        _, invoice = credit(invoice_of(("100.00", at(1900))), (1, "40.00"))
        with pytest.raises(CreditExceedsLine) as refusal:
            credit(invoice, (1, "60.01"))
        assert refusal.value.metadata == {
            "line_id": f"iln_{1:032x}", "line_number": "1", "requested": "60.01", "remaining": "60.00", "held": "0.00",
            "currency_code": "EUR",
        }  # fmt: skip
        note, _ = credit(invoice, (1, "60.00"))
        assert note.total == Decimal("71.40")

    def test_the_tax_of_each_rate_is_a_subtotal_of_the_note(self) -> None:
        invoice = invoice_of(("10.00", at(1900)), ("20.00", at(700)), ("30.00", TaxKey(TaxTreatment.REVERSE_CHARGE, 0)))
        note, _ = credit(invoice, (1, "5.00"), (3, "30.00"))
        assert [(each.treatment, each.tax_rate_bp, each.net, each.tax) for each in note.taxes] == [
            (STANDARD, 1900, Decimal("5.00"), Decimal("0.95")),
            (TaxTreatment.REVERSE_CHARGE, 0, Decimal("30.00"), ZERO),
        ]
        assert (note.net, note.tax, note.total) == (Decimal("35.00"), Decimal("0.95"), Decimal("35.95"))

    def test_unknown_lines_and_amounts_of_the_wrong_sign_are_named_together(self) -> None:
        invoice = invoice_of(("10.00", at(1900)), ("-5.00", at(1900)))
        amounts = {line_id(9): Decimal(1), line_id(1): Decimal(-1), line_id(2): Decimal(1)}
        violations = domain.credit_notes.request_violations(invoice.lines, amounts)
        assert [violation.field for violation in violations] == [
            "lines[0].line_id", "lines[1].amount", "lines[2].amount",
        ]  # fmt: skip

    def test_all_that_is_left_includes_what_disputes_hold(self) -> None:
        invoice = invoice_of(("10.00", at(1900)), ("-5.00", at(1900)), ("7.00", at(1900)))
        lines = [replace(invoice.lines[0], credited=Decimal("4.00"), held=Decimal("1.00")), invoice.lines[1]]
        lines.append(replace(invoice.lines[2], credited=Decimal("7.00")))
        left = domain.credit_notes.all_that_is_left(replace(invoice, lines=lines))
        assert left == {line_id(1): Decimal("6.00"), line_id(2): Decimal("-5.00")}


class TestLinesBelowZero:
    def test_a_credit_of_a_line_below_zero_never_goes_beyond_the_line(self) -> None:
        invoice = invoice_of(("100.00", at(1900)), ("-20.00", at(1900)))
        with pytest.raises(CreditExceedsLine):
            credit(invoice, (1, "50.00"), (2, "-20.01"))
        note, invoice = credit(invoice, (1, "50.00"), (2, "-20.00"))
        assert note.total == Decimal("35.70")
        note, _ = credit(invoice, (1, "50.00"))
        assert note.total == Decimal("59.50")

    def test_a_note_above_what_is_left_of_the_invoice_is_refused(self) -> None:
        invoice = invoice_of(("100.00", at(0)), ("-20.00", at(0)))
        with pytest.raises(CreditExceedsInvoice) as refusal:
            credit(invoice, (1, "80.01"))
        assert refusal.value.metadata["remaining"] == "80.00"
        note, invoice = credit(invoice, (1, "80.00"))
        note, _ = credit(invoice, (1, "20.00"), (2, "-20.00"))
        assert note.total == ZERO

    def test_a_note_below_zero_is_refused(self) -> None:
        with pytest.raises(CreditBelowZero):
            credit(invoice_of(("100.00", at(1900)), ("-20.00", at(1900))), (2, "-20.00"))


class TestHolds:
    def test_only_the_dispute_credits_what_it_holds(self) -> None:
        invoice = invoice_of(("100.00", at(0)))
        held = replace(invoice, lines=[replace(invoice.lines[0], held=Decimal("70.00"))])
        with pytest.raises(CreditExceedsLine) as refusal:
            credit(held, (1, "30.01"))
        assert (refusal.value.metadata["remaining"], refusal.value.metadata["held"]) == ("30.00", "70.00")
        with pytest.raises(CreditExceedsLine):
            credit(held, (1, "70.01"), holds={1: "70.00"})
        note, _ = credit(held, (1, "70.00"), holds={1: "70.00"})
        assert note.total == Decimal("70.00")

    def test_a_hold_above_what_is_neither_credited_nor_held_is_refused(self) -> None:
        (line,) = invoice_of(("100.00", at(0))).lines
        line = replace(line, credited=Decimal("30.00"))
        with pytest.raises(HoldExceedsLine) as refusal:
            domain.credit_notes.check_hold(line, Decimal("80.00"), "EUR")
        assert refusal.value.metadata["remaining"] == "70.00"
        domain.credit_notes.check_hold(line, Decimal("70.00"), "EUR")

    def test_the_gross_amount_held_is_the_total_of_a_credit_note_of_it(self) -> None:
        _, invoice = credit(invoice_of(("100.00", at(1900)), ("9.99", at(700))), (1, "33.33"))
        note, _ = credit(invoice, (1, "10.01"), (2, "9.99"))
        held = [replace(invoice.groups[0], held=Decimal("10.01")), replace(invoice.groups[1], held=Decimal("9.99"))]
        assert domain.credit_notes.gross_held(replace(invoice, groups=held)) == note.total
        held = [replace(invoice.groups[0], held=Decimal("-20.00")), invoice.groups[1]]
        assert domain.credit_notes.gross_held(replace(invoice, groups=held)) == ZERO


TOTAL: Final = Money(Decimal(30), "EUR")


def split_of(parts: dict[str, str], *, open_amount: str) -> CreditSplit:
    """The split of TOTAL with these requested parts."""
    request = SplitRequest(**{part: Decimal(amount) for part, amount in parts.items()})
    return domain.credit_notes.split_total(TOTAL.amount, request, open_amount=Decimal(open_amount))


class TestSplit:
    @pytest.mark.parametrize(
        ("request_parts", "open_amount", "refundable", "expected"),
        [
            ({}, "100", "0", ("30", "0", "0")),
            ({}, "0", "100", ("0", "0", "30")),
            ({}, "10", "90", ("10", "0", "20")),
            ({"refund": "30"}, "0", "100", ("0", "30", "0")),
            ({"refund": "5"}, "10", "90", ("10", "5", "15")),
            ({"offset": "3"}, "10", "90", ("3", "0", "27")),
            ({"credit": "25"}, "10", "90", ("5", "0", "25")),
            ({"offset": "10", "refund": "15", "credit": "5"}, "10", "90", ("10", "15", "5")),
        ],
    )
    def test_the_parts_sum_to_the_total(
        self, request_parts: dict[str, str], open_amount: str, refundable: str, expected: Sequence[str]
    ) -> None:
        split = split_of(request_parts, open_amount=open_amount)
        assert split == CreditSplit(
            offset=Decimal(expected[0]), refund=Decimal(expected[1]), credit=Decimal(expected[2])
        )
        assert not list(domain.credit_notes.split_violations(TOTAL, split))
        domain.credit_notes.check_split(split, "EUR", open_amount=Decimal(open_amount), refundable=Decimal(refundable))

    @pytest.mark.parametrize(
        "parts", [{"refund": "30.01"}, {"offset": "10", "credit": "10"}, {"credit": "31"}, {"offset": "-1"}]
    )
    def test_parts_that_do_not_sum_to_the_total_are_a_violation(self, parts: dict[str, str]) -> None:
        violations = domain.credit_notes.split_violations(TOTAL, split_of(parts, open_amount="10"))
        assert [violation.field for violation in violations] == ["split"]

    @pytest.mark.parametrize(
        ("parts", "error"),
        [
            ({"offset": "10.01"}, OffsetExceedsOpen),
            ({"credit": "19.99"}, OffsetExceedsOpen),
            ({"refund": "20.01"}, RefundExceedsPaid),
        ],
    )
    def test_more_than_is_open_or_refundable_is_refused(self, parts: dict[str, str], error: type[Exception]) -> None:
        split = split_of(parts, open_amount="10")
        with pytest.raises(error):
            domain.credit_notes.check_split(split, "EUR", open_amount=Decimal(10), refundable=Decimal(20))


def random_invoice(chance: random.Random) -> CreditableInvoice:
    """An invoice of one to four tax rates, with lines above zero."""
    currency = chance.choice(CURRENCIES)
    step = unit(currency)
    groups = [at(rate) for rate in chance.sample(RATES, chance.randint(1, 4))]
    lines = [(str(step * chance.choice((1, 3, chance.randint(1, 20_000)))), group) for group in groups]
    lines += [(str(step * chance.randint(1, 20_000)), chance.choice(groups)) for _ in range(chance.randint(0, 2))]
    return invoice_of(*lines, currency=currency)


def random_amounts(chance: random.Random, invoice: CreditableInvoice) -> dict[UUID, Decimal]:
    """Whole rests or parts of some lines that are not credited in full."""
    left = [line for line in invoice.lines if line.credited != line.net]
    step = unit(invoice.currency)
    amounts = {}
    for line in chance.sample(left, chance.randint(1, len(left))):
        amount = line.remaining
        if chance.random() < 0.4:
            amount = step * (1 + int(chance.random() * abs(int(amount / step)))) * (1 if amount > 0 else -1)
        amounts[line.id] = amount
    return amounts


class TestSequences:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_100_000_sequences_of_partial_credits_end_exactly_at_the_invoice(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - no secret
        invoices = [random_invoice(chance) for _ in range(SEQUENCES // 5)]
        for number in range(SEQUENCES):
            invoice = invoices[number // 5]
            limits = {group.key: (group.subtotal.net, group.subtotal.tax) for group in invoice.groups}
            credited = dict.fromkeys(limits, (ZERO, ZERO))
            while amounts := domain.credit_notes.all_that_is_left(invoice) and random_amounts(chance, invoice):
                note = domain.credit_notes.credit_lines(invoice, amounts)
                for each in note.taxes:
                    group = TaxKey(each.treatment, each.tax_rate_bp)
                    net, tax = credited[group]
                    credited[group] = net + each.net, tax + each.tax
                    assert each.tax >= 0
                    assert net + each.net <= limits[group][0]
                    assert tax + each.tax <= limits[group][1]
                invoice = after(invoice, note)
            assert credited == limits
            with pytest.raises(CreditExceedsLine):
                domain.credit_notes.credit_lines(invoice, {invoice.lines[0].id: unit(invoice.currency)})

    def test_sequences_with_lines_below_zero_end_exactly_at_the_invoice_too(self) -> None:
        chance = random.Random(7)  # noqa: S311 - no secret
        for _ in range(2_000):
            invoice = self._with_lines_below_zero(chance)
            total = ZERO
            for _ in range(4):
                amounts = random_amounts(chance, invoice) if domain.credit_notes.all_that_is_left(invoice) else {}
                try:
                    note = domain.credit_notes.credit_lines(invoice, amounts)
                except (CreditExceedsInvoice, CreditBelowZero):
                    continue
                total += note.total
                assert total <= invoice.total
                invoice = after(invoice, note)
            rest = domain.credit_notes.credit_lines(invoice, domain.credit_notes.all_that_is_left(invoice))
            assert total + rest.total == invoice.total

    def _with_lines_below_zero(self, chance: random.Random) -> CreditableInvoice:
        while True:
            lines = [(str(chance.randint(-2_000, 9_000) / Decimal(100)), at(chance.choice(RATES))) for _ in range(4)]
            invoice = invoice_of(*(line for line in lines if Decimal(line[0])))
            if invoice.total > 0:
                return invoice
