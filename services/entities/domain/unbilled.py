"""What no invoice has taken: allocated costs, and fees of contracts that have fallen due."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from kit.money import Money
from services.entities.domain.consolidation import FeeDue


class UnbilledKind(StrEnum):
    """UnbilledItem.Kind."""

    ALLOCATIONS = "ALLOCATIONS"
    CONTRACT_FEES = "CONTRACT_FEES"


class CostPosition(NamedTuple):
    """The place of a sum of costs in the list, which is in this order."""

    entity_id: UUID
    department_id: UUID
    """The nil UUID for costs of the entity as a whole."""
    gl_code: str
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnbilledQuery:
    """Which part of the unbilled costs and fees to list."""

    entity_id: UUID
    include_descendants: bool
    as_of: date | None
    """The last due date of fees; None: today in the time zone of the entity."""
    after: CostPosition | UUID | None
    """Position of the last item of the previous page: of a sum of costs, or the contract of fees."""
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnbilledItem:
    """A sum of unbilled costs, or the unbilled fees of a contract."""

    kind: UnbilledKind
    entity_id: UUID
    department_id: UUID | None = None
    gl_code: str = ""
    contract_id: UUID | None = None
    contract_number: str = ""
    amount: Money
    item_count: int
    first_date: date
    last_date: date

    @property
    def position(self) -> CostPosition | UUID:
        """The place of the item in the list."""
        if self.contract_id:
            return self.contract_id
        return CostPosition(self.entity_id, self.department_id or UUID(int=0), self.gl_code, self.amount.currency)


@dataclass(frozen=True, slots=True)
class CurrencySum:
    """A sum of unbilled costs or fees in one currency."""

    amount: Money
    count: int


@dataclass(frozen=True, slots=True)
class UnbilledTotal:
    """Everything that is unbilled in one currency."""

    allocated: CurrencySum
    fees: CurrencySum

    @property
    def currency(self) -> str:
        """The currency of both sums."""
        return self.allocated.amount.currency


@dataclass(frozen=True, slots=True, kw_only=True)
class Unbilled:
    """A page of the unbilled costs and fees, and the totals of all pages."""

    as_of: date
    items: Sequence[UnbilledItem]
    """One more than the page has, if another page follows."""
    totals: Sequence[UnbilledTotal]
    entity_codes: Mapping[UUID, str]


def fees_item(entity_id: UUID, contract_id: UUID, contract_number: str, fees: Sequence[FeeDue]) -> UnbilledItem:
    """Return the item of the unbilled fees of a contract; there is at least one."""
    days = [fee.due_date for fee in fees]
    return UnbilledItem(
        kind=UnbilledKind.CONTRACT_FEES,
        entity_id=entity_id,
        contract_id=contract_id,
        contract_number=contract_number,
        amount=sum((fee.amount for fee in fees[1:]), fees[0].amount),
        item_count=len(fees),
        first_date=min(days),
        last_date=max(days),
    )


def sum_totals(allocated: Iterable[CurrencySum], fees: Iterable[UnbilledItem]) -> list[UnbilledTotal]:
    """Return the totals by currency, sorted."""
    costs = {each.amount.currency: each for each in allocated}
    due: defaultdict[str, list[UnbilledItem]] = defaultdict(list)
    for item in fees:
        due[item.amount.currency].append(item)
    totals = []
    for currency in sorted({*costs, *due}):
        zero, items = Money.zero(currency), due.get(currency, [])
        of_fees = CurrencySum(sum((item.amount for item in items), zero), sum(item.item_count for item in items))
        totals.append(UnbilledTotal(costs.get(currency, CurrencySum(zero, 0)), of_fees))
    return totals
