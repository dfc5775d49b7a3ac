"""Holds to messages."""

from dataclasses import replace

from billing.budgets.v1.hold_pb2 import Hold

from contract.values import money_to_proto, time_to_proto
from kit import ids
from kit.money import Money
from services.budgets import convert
from services.budgets.domain.funds import Ended
from services.budgets.models.holds import HoldRow
from services.budgets.store.group import StoredHold


def hold_to_proto(stored: StoredHold) -> Hold:
    """A hold as the engine left it."""
    hold = stored.hold
    return Hold(
        id=ids.HOLD.format(hold.id),
        budget_id=ids.BUDGET.format(hold.budget_id),
        amount=money_to_proto(hold.money(hold.amount)),
        captured=money_to_proto(hold.money(hold.captured)),
        released=money_to_proto(hold.money(hold.released)),
        open=money_to_proto(hold.money(hold.open)),
        state=Hold.State.Value(hold.state),
        expire_time=time_to_proto(hold.expires) if hold.expires else None,
        original_amount=money_to_proto(stored.original) if stored.original else None,
        rate=convert.numbers.rate_text(stored.rate),
        rate_date=stored.rate_date.isoformat() if stored.rate_date else "",
        description=stored.description,
        reference=stored.reference,
        request_id=stored.request_id,
        actor=stored.actor,
        last_entry_id=ids.ENTRY.format(stored.last_entry_id),
        create_time=time_to_proto(stored.create_time),
        update_time=time_to_proto(stored.update_time),
        approval_id=ids.APPROVAL.format_optional(stored.approval_id),
    )


def stored_hold(row: HoldRow) -> StoredHold:
    """A hold out of its row."""
    return StoredHold(
        hold=row.hold,
        opened_budget_id=row.opened_budget_id,
        original=Money(row.original_amount or row.amount, row.original_currency) if row.original_currency else None,
        rate=row.rate,
        rate_date=row.rate_date,
        description=row.description,
        reference=row.reference,
        request_id=row.request_id,
        actor=row.actor,
        last_entry_id=row.last_entry_id,
        version=row.version,
        create_time=row.create_time,
        update_time=row.update_time,
        approval_id=row.approval_id,
    )


def hold_of(reply: bytes, ended: Ended) -> Ended:
    """A round of an approval request with the hold that was answered for it."""
    return replace(ended, hold_id=ids.HOLD.parse(Hold.FromString(reply).id))
