"""No field of a resource is forgotten: a row whose every column is filled gives a message whose every field is."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import pytest
from billing.budgets.v1.charge_pb2 import Charge
from billing.budgets.v1.charge_pb2 import Refund as RefundMessage
from billing.budgets.v1.events_pb2 import BudgetAlertRaised
from billing.budgets.v1.hold_pb2 import Hold
from google.protobuf.message import Message
from sqlalchemy import ARRAY, Boolean, Date, DateTime, Enum, Integer, Numeric, String, Uuid

from kit import ids
from kit.db import TenantRow
from kit.money import Money
from services.budgets import convert, domain, events
from services.budgets.domain.alerts import Alert, AlertThreshold, AlertType
from services.budgets.domain.balances import Movement
from services.budgets.domain.entries import ChargeVerdict, EntryType, LedgerSums
from services.budgets.domain.forecast import Forecast, ForecastInput, Method
from services.budgets.domain.forecast_warnings import ForecastResult
from services.budgets.domain.postings import AlertRaised, Entry, Posted
from services.budgets.domain.refunds import Charged, Refund
from services.budgets.domain.summaries import Summary
from services.budgets.models.alerts import AlertRow
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.holds import HoldRow
from services.budgets.models.ledger import EntryRow
from services.budgets.models.unbudgeted import UnbudgetedRow
from services.entities import convert as entities_convert
from services.entities.domain.amendments import AmendedFee, AmendmentEffect
from services.entities.domain.contracts import ContractState, ContractTotals, LicenseState, Phase, SlaTerms
from services.entities.domain.costs import (
    AppliedRate,
    CostSum,
    CostSummary,
    CostSummaryQuery,
    DepartmentCostQuery,
    DepartmentCosts,
    DepartmentGroupBy,
    EntitySubtotal,
    SummaryGroupBy,
    Tree,
)
from services.entities.domain.proration import DateRange
from services.entities.domain.purchase_orders import PurchaseOrderState, PurchaseOrderUse
from services.entities.domain.rates import Conversion, Derivation, DerivedRate
from services.entities.domain.renewals import RenewalFacts, assess
from services.entities.models.allocation_rules import AllocationRuleRow, AllocationTargetRow
from services.entities.models.allocations import AllocationRow
from services.entities.models.amendments import AmendmentRow
from services.entities.models.contracts import ContractDetails, ContractRow, SignatureRow
from services.entities.models.entities import DepartmentHistoryRow, DepartmentRow, EntityRow
from services.entities.models.rates import ExchangeRateRow
from services.entities.models.splits import CostSplitRow

SUMMED = ("amount", "carried", "spent", "held", "committed", "captured", "fx_effect")

RowT = TypeVar("RowT", bound=TenantRow)

NOW = datetime.now(UTC)

FIXED = {
    "currency_code": "EUR", "country_code": "DE", "time_zone": "Europe/Berlin",
    "amount": Decimal("100.00"), "period_start": date(2026, 1, 1), "period_end": date(2027, 1, 1),
    "labels": {"team": "a"}, "verdict": "ACCEPTED_OVERSPENT", "chain_amounts": [Decimal(100)],
    "chain_spent": [Decimal(130)], "chain_versions": [1], "original_currency": "USD", "captured": Decimal("20.00"),
    "spent": Decimal("130.00"),
    "shares": [
        {"department_id": "d", "entity_id": "e", "weight": "1", "fraction": "1", "amount": "1", "allocation_id": "a"}
    ],
    "phases": [{"start_date": "2026-01-01", "fee": "10.00"}],
    "sla_terms": {"uptime_bp": 9990, "response_hours": 4, "credit_bp": 500},
    "address": {"lines": ["Weg 1"], "postal_code": "1", "city": "B", "region": "C", "country_code": "DE"},
}  # fmt: skip
"""Columns whose values must go together."""


def filled(kind: type[RowT], **given: Any) -> RowT:
    """A row with something in every column."""
    row, fixed = kind(), {**FIXED, **given}
    for number, (name, column) in enumerate(kind.__mapper__.columns.items(), 1):
        setattr(row, name, fixed[name] if name in fixed else something(column.type, number))
    return row


def something(kind: Any, number: int) -> Any:
    made: dict[type, Any] = {
        Uuid: UUID(int=number), Enum: getattr(kind, "enums", [""])[0], String: f"text {number}", Integer: number,
        Boolean: True, Numeric: Decimal(number), DateTime: NOW + timedelta(seconds=number),
        Date: date(2026, 1, 1) + timedelta(days=number),
    }  # fmt: skip
    if isinstance(kind, ARRAY):
        return [something(kind.item_type, number)]
    return next(value for of, value in made.items() if isinstance(kind, of))


def empty_fields(message: Message, path: str = "") -> list[str]:
    """The fields that have nothing in them, those of nested messages too."""
    given = dict(message.ListFields())
    empty = [f"{path}{field.name}" for field in message.DESCRIPTOR.fields if field not in given]
    for field, value in given.items():
        entry = field.message_type and field.message_type.GetOptions().map_entry
        if not field.message_type or entry or field.message_type.file.package.startswith("google"):
            continue
        for item in value if field.is_repeated else [value]:
            empty += empty_fields(item, f"{path}{field.name}.")
    return empty


def posted(entry_type: EntryType) -> Posted:
    """A posting with every field set."""
    budget = filled(BudgetRow)
    balance = budget.balance
    euros, dollars = Money(Decimal(10), "EUR"), Money(Decimal(12), "USD")
    hold = filled(HoldRow).hold
    refund = Refund(euros, dollars, Movement())
    charged = Charged(UUID(int=1), budget.id, EntryType.CHARGE, euros, dollars, Decimal(0), Decimal(0))
    entry = Entry(
        id=UUID(int=2), entry_type=entry_type, chain=[balance], amount=Decimal(10), movement=Movement(),
        verdict=ChargeVerdict.ACCEPTED_OVERSPENT, hold_id=hold.id, charge_id=charged.id, original=dollars,
        rate=Decimal("0.9"), rate_date=date(2026, 1, 1), plan_amount=Decimal(9), request_id="k", description="d",
        reference="r", actor="a", charge_time=NOW, create_time=NOW,
    )  # fmt: skip
    return Posted(entry, [balance], hold, refund, charged)


def entry() -> Message:
    row = filled(EntryRow)
    row.chain_ids = [row.budget_id]
    return convert.entries.to_proto(row, row.budget_id)


def verified() -> Message:
    """Of a budget that says what its ledger says."""
    row = filled(BudgetRow)
    at = row.balance
    sums = LedgerSums(
        opening=at.total, amount=Decimal(0), spent=at.spent, held=at.held, committed=at.committed,
        captured=at.captured, entries=at.version, open_holds=at.held + at.committed,
    )  # fmt: skip
    return convert.entries.verification_to_proto(row, sums)


def foreseen() -> Message:
    balance, out = filled(BudgetRow).balance, date(2026, 2, 20)
    course = ForecastInput(date(2026, 1, 1), date(2026, 3, 1), date(2026, 2, 1), balance.total, "EUR")
    found = Forecast(Decimal(300), Decimal(200), Decimal(400), out, Method.LEVEL, 40)
    return convert.reports.forecast_to_proto(ForecastResult(balance, course, found))


def summed() -> Message:
    amounts = {name: Decimal(number) for number, name in enumerate(SUMMED, 1)}
    return convert.reports.summary_to_proto(Summary(UUID(int=1), UUID(int=2), "cloud", "EUR", 3, 1, **amounts))


def ledger_entry() -> Message:
    row, budget = filled(EntryRow), filled(BudgetRow)
    row.budget_id, row.chain_ids = budget.id, [budget.id]
    return convert.reports.ledger_entry_to_proto(row, budget)


def split() -> Message:
    message = entities_convert.splits.to_proto(filled(CostSplitRow))
    message.validate_only = True  # not a column: a dry run has no allocations
    return message


APPLIED_RATE = AppliedRate(
    Conversion("EUR", "CHF", date(2026, 1, 31)), DerivedRate(Derivation.CROSS, Decimal("0.9"), date(2026, 1, 2), "USD")
)


def department_costs() -> Message:
    query = DepartmentCostQuery(
        department_id=UUID(int=1), start=date(2026, 1, 1), end=date(2026, 2, 1), group_by=list(DepartmentGroupBy),
        include_descendants=True, tree=Tree.CURRENT,
    )  # fmt: skip
    costs = CostSum(Decimal(10), 3, 1, {"USD": Decimal(12)})
    key = ("cloud", "6000", date(2026, 1, 1), UUID(int=2))
    return entities_convert.costs.department_costs_to_proto(
        query, DepartmentCosts(UUID(int=1), [(key, costs)], costs, APPLIED_RATE)
    )


def cost_summary() -> Message:
    group_by = list(SummaryGroupBy)
    query = CostSummaryQuery(entity_ids=[], start=date(2026, 1, 1), end=date(2026, 2, 1), group_by=group_by)
    key = (UUID(int=1), UUID(int=2), "cloud", "6000", date(2026, 1, 1))
    subtotal = EntitySubtotal(key, "EUR", Decimal(10), 3, 1)
    return entities_convert.costs.summary_to_proto(query, CostSummary(subtotal, Money(Decimal(9), "CHF")))


USE = PurchaseOrderUse(Money(Decimal(1), "EUR"), Money(Decimal(2), "EUR"), PurchaseOrderState.NEAR, date(2026, 9, 1))

TERMS: dict[str, Any] = {
    "fee": Money(Decimal(9), "EUR"), "phases": (Phase(date(2026, 9, 1), Money(Decimal(9), "EUR")),), "seats": 5,
    "end_date": date(2027, 1, 1), "license_tier": "gold", "minimum_commitment": Money(Decimal(9), "EUR"),
    "payment_terms_days": 30, "purchase_order_number": "PO-1", "purchase_order_limit": Money(Decimal(9), "EUR"),
    "auto_renew": True, "renewal_term_months": 12, "renewal_notice_days": 30, "renewal_uplift_bp": 300,
    "sla_terms": SlaTerms(9990, 4, 500),
}  # fmt: skip


def amendment() -> Message:
    days, euros = (
        DateRange(date(2026, 1, 1), date(2026, 2, 1)),
        [Money(Decimal(number), "EUR") for number in range(1, 7)],
    )
    fee = AmendedFee(1, days, euros[0], euros[1])
    effect = AmendmentEffect(
        period=days, old_part=euros[0], new_part=euros[1], fees=(fee,), old_total=euros[2], new_total=euros[3]
    )
    row = filled(AmendmentRow, changes={}, proration={})
    row.set_changes(TERMS, TERMS)
    row.set_effect(effect)
    return entities_convert.amendments.to_proto(row)


def checked() -> Message:
    """Of a contract in its last days, with a successor that the answer may name though it would not decide."""
    row = filled(ContractRow)
    row.end_date, row.renewal_notice_days = date(2027, 1, 1), 30
    facts = RenewalFacts(
        contract_id=row.id, terms=row.terms, state=ContractState.ACTIVE, license_state=LicenseState.FAILED,
        successor_id=row.renewed_to_id, termination_date=None, used=Money(Decimal(1), "EUR"), today=date(2026, 12, 1),
    )  # fmt: skip
    return entities_convert.renewals.check_to_proto(assess(facts))


def raised_alert() -> Alert:
    threshold = AlertThreshold(AlertType.FORECAST, 10000)
    return domain.alerts.new(
        filled(BudgetRow).balance, threshold, id=UUID(int=1), charge_id=UUID(int=2), now=NOW, expected=Decimal(200)
    )


def raised() -> BudgetAlertRaised:
    return events.published.budget_alert_raised(AlertRaised(raised_alert(), filled(BudgetRow).balance.terms))


@pytest.mark.parametrize(
    "message",
    [
        entities_convert.entities.to_proto(filled(EntityRow)),
        entities_convert.departments.to_proto(filled(DepartmentRow)),
        entities_convert.departments.placement_to_proto(filled(DepartmentHistoryRow)),
        entities_convert.rates.to_proto(filled(ExchangeRateRow)),
        entities_convert.allocations.to_proto(filled(AllocationRow), UUID(int=1)),
        entities_convert.contracts.to_proto(filled(ContractRow), ContractDetails([filled(SignatureRow)], USE)),
        checked(),
        entities_convert.contracts.totals_to_proto(
            ContractTotals(
                entity_id=UUID(int=1),
                active=1,
                value=Money(Decimal(1), "EUR"),
                suspended=2,
                due_30=3,
                due_60=4,
                due_90=5,
            )
        ),
        department_costs(),
        cost_summary(),
        entities_convert.allocation_rules.to_proto(filled(AllocationRuleRow), [filled(AllocationTargetRow)]),
        split(),
        amendment(),
        convert.budgets.to_proto(filled(BudgetRow)),
        convert.alerts.to_proto(filled(AlertRow)),
        convert.alerts.to_proto(raised_alert()),
        convert.holds.to_proto(filled(HoldRow).hold),
        Charge.FromString(convert.postings.to_reply(posted(EntryType.CHARGE))),
        RefundMessage.FromString(convert.postings.to_reply(posted(EntryType.REFUND))),
        Hold.FromString(convert.postings.to_reply(posted(EntryType.HOLD))),
        convert.unbudgeted.to_proto(filled(UnbudgetedRow)),
        entry(),
        verified(),
        foreseen(),
        summed(),
        ledger_entry(),
        convert.alerts.event_to_proto(7, raised()),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_field_is_filled(message: Message) -> None:
    assert empty_fields(message) == []


def test_ids_are_those_of_their_kind() -> None:
    budget = convert.budgets.to_proto(filled(BudgetRow))
    assert ids.BUDGET.parse(budget.id) != ids.BUDGET.parse(budget.parent_id)
    assert ids.ENTITY.parse(budget.entity_id)
    assert ids.DEPARTMENT.parse(budget.department_id)
