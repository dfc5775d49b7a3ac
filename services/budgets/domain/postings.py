"""Postings: what changes the balances of budgets, and the results, as plain values. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from kit.money import Money
from services.budgets.domain.alerts import Alert
from services.budgets.domain.balances import ZERO, Availability, Balance, Movement, Terms
from services.budgets.domain.entries import ChargeVerdict, EntryType
from services.budgets.domain.holds import Hold, HoldDraft
from services.budgets.domain.rates import Conversion
from services.budgets.domain.refunds import Charged, Refund

Key = tuple[UUID, UUID]
"""A row of a tenant: (tenant, id)."""
RequestKey = tuple[UUID, str, str]
"""The idempotency key of a request: (tenant, method, key)."""


@dataclass(slots=True, kw_only=True)
class PostingRequest:
    """A posting that a caller requests: a charge, a hold, a capture and so on."""

    entry_type: EntryType
    budget_id: UUID | None
    """None if the hold determines it."""
    hold_id: UUID | None = None
    charge_id: UUID | None = None
    amount: Money | None = None
    """None for all that is left of the hold or the charge."""
    conversion: Conversion | None = None
    """`amount` in the budget's currency, if it is in another one."""
    request_key: RequestKey | None = None
    """None for expiries, which a timer requests."""
    fingerprint: bytes = b""
    """Digest of the input; a key that was used with other input is refused."""
    description: str = ""
    reference: str = ""
    charge_time: datetime | None = None
    hold: HoldDraft | None = None
    """Set for a new hold."""
    release_rest: bool = False
    """True if a capture releases what it leaves of the hold."""
    approval_id: UUID | None = None
    """The approval request on whose behalf a hold is committed or released."""
    approved: bool = False
    """True once an overspend was approved. Budgets with policy BLOCK refuse it anyway."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """A new ledger entry. Its fields and properties are the columns of the ledger."""

    id: UUID
    entry_type: EntryType
    chain: Sequence[Balance]
    """The budgets that it changes, as they are afterwards: the budget it belongs to, then those above it."""
    amount: Decimal
    movement: Movement
    moved_amount: Decimal = ZERO
    """Change of the total of each budget."""
    verdict: ChargeVerdict | None = None
    hold_id: UUID | None = None
    charge_id: UUID | None = None
    """The charge that a refund reverses."""
    counterpart_id: UUID | None = None
    """The other budget of a transfer or a rollover."""
    original: Money | None = None
    """The amount in the currency of the request, if that is a foreign one."""
    rate: Decimal | None = None
    rate_date: date | None = None
    plan_amount: Decimal | None = None
    """The amount at the rate of the first day of the budget's period; None if nothing was converted, or if that rate is
    unknown."""
    request_id: str | None = None
    description: str = ""
    reference: str = ""
    actor: str
    charge_time: datetime
    create_time: datetime

    @property
    def tenant_id(self) -> UUID:
        """The tenant."""
        return self.chain[0].terms.tenant_id

    @property
    def budget_id(self) -> UUID:
        """The budget it belongs to."""
        return self.chain[0].terms.id

    @property
    def currency_code(self) -> str:
        """The currency of all its amounts but the original one."""
        return self.chain[0].terms.currency

    @property
    def chain_ids(self) -> Sequence[UUID]:
        """The budgets that it changes."""
        return [balance.terms.id for balance in self.chain]

    @property
    def chain_versions(self) -> Sequence[int]:
        """The number of entries of each budget of the chain, this one included."""
        return [balance.version for balance in self.chain]

    @property
    def chain_amounts(self) -> Sequence[Decimal]:
        """The total of each budget of the chain afterwards, including the amount carried forward."""
        return [balance.total for balance in self.chain]

    @property
    def chain_spent(self) -> Sequence[Decimal]:
        """The spend of each budget of the chain afterwards."""
        return [balance.spent for balance in self.chain]

    @property
    def chain_held(self) -> Sequence[Decimal]:
        """The held amount of each budget of the chain afterwards."""
        return [balance.held for balance in self.chain]

    @property
    def chain_committed(self) -> Sequence[Decimal]:
        """The committed amount of each budget of the chain afterwards."""
        return [balance.committed for balance in self.chain]

    @property
    def moved_spent(self) -> Decimal:
        """Change of the spend of each budget."""
        return self.movement.spent

    @property
    def moved_held(self) -> Decimal:
        """Change of the held amount of each budget."""
        return self.movement.held

    @property
    def moved_committed(self) -> Decimal:
        """Change of the committed amount of each budget."""
        return self.movement.committed

    @property
    def moved_captured(self) -> Decimal:
        """Change of the captured part of the spend of each budget."""
        return self.movement.captured

    @property
    def original_amount(self) -> Decimal | None:
        """The amount in a foreign currency."""
        return self.original.amount if self.original else None

    @property
    def original_currency(self) -> str | None:
        """The foreign currency."""
        return self.original.currency if self.original else None


@dataclass(slots=True)
class Posted:
    """An accepted posting: its entry and what it changed."""

    entry: Entry
    before: Sequence[Balance]
    """The chain before it."""
    after: Sequence[Balance]
    """The chain after it and the corrections that it caused."""
    hold: Hold | None = None
    refund: Refund | None = None
    charged: Charged | None = None
    """The charge that a refund reverses, as it was before."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The stored reply to the key of the request."""

    reply: bytes


@dataclass(frozen=True, slots=True)
class AlertRaised:
    """A budget crossed an alert threshold."""

    alert: Alert
    terms: Terms


@dataclass(frozen=True, slots=True)
class BudgetExhausted:
    """Nothing is left of a budget."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class HoldExpired:
    """An expired hold was released."""

    hold: Hold
    terms: Terms


@dataclass(frozen=True, slots=True)
class ApprovalHoldSettled:
    """The hold of an approval request was committed or released."""

    hold: Hold
    entry_type: EntryType


LedgerEvent = AlertRaised | BudgetExhausted | HoldExpired | ApprovalHoldSettled


@dataclass(frozen=True, slots=True)
class AvailabilityQuery:
    """A charge whose acceptance is checked."""

    budget_id: UUID
    amount: Money


@dataclass(frozen=True, slots=True)
class AvailabilityResult:
    """Whether the charge would be accepted; the amount is in the budget's currency."""

    balance: Balance
    amount: Money
    availability: Availability
