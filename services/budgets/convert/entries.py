"""Conversion of ledger entries."""

from collections.abc import Collection, Sequence
from decimal import Decimal
from uuid import UUID

from billing.budgets.v1 import ledger_service_pb2 as pb
from billing.budgets.v1.entry_pb2 import BudgetVerification, Entry
from billing.type.v1.money_pb2 import Money as MoneyMessage

from contract.values import date_text, enum_or_none, money_to_proto, time_or_none, time_to_proto
from kit import ids
from kit.money import Money
from services.budgets import convert
from services.budgets.domain.entries import EntryFilter, EntryType, LedgerSums
from services.budgets.domain.verification import Verification
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.ledger import EntryRow


def to_proto(row: EntryRow, budget_id: UUID, hidden: Collection[UUID] = ()) -> Entry:
    """Return the message of an entry; the amounts after it are those of one budget of its chain.

    The caller may not see the `hidden` budgets.
    """
    position = row.chain_ids.index(budget_id)

    def after(amounts: Sequence[Decimal]) -> MoneyMessage:
        return money_to_proto(Money(amounts[position], row.currency_code))

    return Entry(
        id=ids.ENTRY.format(row.id),
        entry_type=Entry.Type.Value(row.entry_type),
        budget_id=ids.BUDGET.format(row.budget_id),
        amount=money_to_proto(Money(row.amount, row.currency_code)),
        budget_amount_after=after(row.chain_amounts),
        spent_after=after(row.chain_spent),
        held_after=after(row.chain_held),
        committed_after=after(row.chain_committed),
        ledger_version=row.chain_versions[position],
        request_id=row.request_id or "",
        description=row.description,
        reference=row.reference,
        actor=row.actor,
        charge_time=time_to_proto(row.charge_time),
        create_time=time_to_proto(row.create_time),
        hold_id=ids.HOLD.format_optional(row.hold_id),
        charge_id=ids.ENTRY.format_optional(row.charge_id),
        counterpart_budget_id="" if row.counterpart_id in hidden else ids.BUDGET.format_optional(row.counterpart_id),
        original_amount=_original(row),
        rate=convert.numbers.rate_text(row.rate),
        rate_date=date_text(row.rate_date),
        fx_effect=_fx_effect(row),
    )


def _original(row: EntryRow) -> MoneyMessage | None:
    if row.original_amount is None or row.original_currency is None:
        return None
    return money_to_proto(Money(row.original_amount, row.original_currency))


def _fx_effect(row: EntryRow) -> MoneyMessage | None:
    if row.plan_amount is None:
        return None
    return money_to_proto(Money(row.amount - row.plan_amount, row.currency_code))


def filter_from_proto(request: pb.ListEntriesRequest) -> EntryFilter:
    """Return the filters of ListEntriesRequest."""
    return EntryFilter(
        budget_id=ids.BUDGET.parse(request.id),
        entry_type=enum_or_none(EntryType, Entry.Type, request.entry_type),
        as_of=time_or_none(request, "as_of_time"),
    )


def verification_to_proto(row: BudgetRow, sums: LedgerSums, verification: Verification) -> BudgetVerification:
    """Convert a budget, the sums of its ledger, and whether they agree."""
    balance = row.balance

    def money(amount: Decimal | None) -> MoneyMessage | None:
        return None if amount is None else money_to_proto(balance.money(amount))

    rolled_over = row.carried_forward is not None
    return BudgetVerification(
        budget_id=ids.BUDGET.format(row.id),
        verified=verification.verified,
        spent=money(balance.spent),
        spent_by_ledger=money(sums.spent),
        held=money(balance.held),
        held_by_ledger=money(sums.held),
        committed=money(balance.committed),
        committed_by_ledger=money(sums.committed),
        captured=money(balance.captured),
        captured_by_ledger=money(sums.captured),
        open_holds=money(sums.open_holds),
        budget_amount=money(balance.total),
        budget_amount_by_ledger=money(verification.total),
        carried=money(balance.carried),
        carried_by_ledger=money(verification.carried),
        carried_forward=money(row.carried_forward),
        carried_forward_by_ledger=money(sums.carried_out if rolled_over else None),
        carried_forward_by_next_ledger=money(sums.received_by_next if rolled_over else None),
        carried_forward_recomputed=money(verification.recomputed),
        ledger_version=row.ledger_version,
        entry_count=sums.entries,
    )
