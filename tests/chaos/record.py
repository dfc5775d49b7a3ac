"""What was asked and answered, and what the database has of it afterwards. Amounts are whole cents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

ENTRY_TYPES: Mapping[str, str] = {
    "Charge": "CHARGE",
    "CreateHold": "HOLD",
    "CommitHold": "COMMIT",
    "CaptureHold": "CAPTURE",
    "ReleaseHold": "RELEASE",
    "RefundCharge": "REFUND",
}
"""The entry that a taken request leaves, by its RPC."""


class Link(NamedTuple):
    """A budget of the chain in an answer: what it had left before and after."""

    budget: UUID
    before: int
    after: int


@dataclass(slots=True, kw_only=True)
class Told:
    """What an answer says."""

    entry: UUID
    amount: int | None = None
    chain: Sequence[Link] = ()
    hold: UUID | None = None
    hold_numbers: tuple[int, int, int, str] | None = None
    """amount, captured, released, state"""
    refundable: int | None = None


@dataclass(slots=True, kw_only=True)
class Denied:
    """One refusal, and when it was asked for and given."""

    reason: str
    numbers: Mapping[str, str]
    began: float
    ended: float
    together: Sequence[tuple[UUID, int]] = ()
    """What the lines before it took in a batch that was undone: budget and amount."""


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request by its key, however often it was sent, and all that was said to it."""

    method: str
    key: str
    budget: UUID
    amount: int | None = None
    hold: UUID | None = None
    charge: UUID | None = None
    request: Any = None
    reply: bytes = b""
    told: Told | None = None
    answered: float = 0.0
    """When it was first answered."""
    denials: list[Denied] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Entry:
    """A row of the ledger."""

    id: UUID
    entry_type: str
    budget: UUID
    chain: Sequence[UUID]
    versions: Sequence[int]
    after: Sequence[tuple[int, int, int, int]]
    """amount, spent, held, committed of each budget of the chain"""
    amount: int
    moved: tuple[int, int, int, int, int]
    """amount, spent, held, committed, captured"""
    key: str
    hold: UUID | None
    charge: UUID | None
    at: float


@dataclass(slots=True, kw_only=True)
class BudgetNow:
    """A budget as its row says."""

    id: UUID
    parent: UUID | None
    opened_with: int
    policy: str
    tolerance_bp: int
    thresholds_bp: Sequence[int]
    numbers: tuple[int, int, int, int, int]
    """amount, spent, held, committed, captured"""
    version: int

    def limit(self, amount: int) -> int | None:
        """The most that may be used where there is so much; None: as much as somebody likes."""
        if self.policy == "WARN":
            return None
        tolerance = self.tolerance_bp if self.policy == "ALLOW_WITHIN_TOLERANCE" else 0
        return amount * (10_000 + tolerance) // 10_000


@dataclass(slots=True, kw_only=True)
class HoldNow:
    """A hold as its row says."""

    id: UUID
    budget: UUID
    numbers: tuple[int, int, int, str]
    """amount, captured, released, state"""
    expires: float | None


@dataclass(slots=True, kw_only=True)
class AlertNow:
    """An alert as its row says."""

    id: UUID
    budget: UUID
    mark: tuple[str, int]
    open: bool


@dataclass(slots=True, kw_only=True)
class Ledger:
    """All that the database has of a tenant."""

    budgets: dict[UUID, BudgetNow]
    entries: list[Entry]
    holds: dict[UUID, HoldNow]
    alerts: list[AlertNow] = field(default_factory=list)
    alerts_said: list[UUID] = field(default_factory=list)
    """The alert of each BudgetAlertRaised in the outbox."""
    unpublished: int = 0


def cents(amount: Decimal | str) -> int:
    """An amount of a currency with two decimal places."""
    whole = Decimal(amount) * 100
    if whole != int(whole):
        raise ValueError(f"{amount} has more than two decimal places")
    return int(whole)


async def read_ledger(admin: "asyncpg.Connection[asyncpg.Record]", tenant: UUID, opened: Mapping[UUID, int]) -> Ledger:
    """The ledger of a tenant, of one moment; `opened` says with which amount each budget was opened."""
    async with admin.transaction(isolation="repeatable_read", readonly=True):
        return await _read(admin, tenant, opened)


async def _read(admin: "asyncpg.Connection[asyncpg.Record]", tenant: UUID, opened: Mapping[UUID, int]) -> Ledger:
    rows = {
        table: await admin.fetch(f"select * from budgets.{table} where tenant_id = $1", tenant)
        for table in ("budgets", "budget_entries", "budget_holds", "budget_alerts")
    }
    said = await admin.fetch(
        "select body::jsonb -> 'alert' ->> 'id' as id from budgets.outbox where tenant_id = $1"
        " and type = 'billing.budgets.v1.BudgetAlertRaised'",
        tenant,
    )
    waiting = "select count(*) from budgets.outbox where tenant_id = $1 and publish_time is null"
    return Ledger(
        budgets={row["id"]: _budget(row, opened[row["id"]]) for row in rows["budgets"]},
        entries=[_entry(row) for row in rows["budget_entries"]],
        holds={row["id"]: _hold(row) for row in rows["budget_holds"]},
        alerts=[
            AlertNow(
                id=row["id"], budget=row["budget_id"], mark=(row["alert_type"], row["threshold_bp"]),
                open=row["state"] != "RESOLVED",
            )
            for row in rows["budget_alerts"]
        ],
        alerts_said=[UUID(row["id"].removeprefix("alr_")) for row in said],
        unpublished=await admin.fetchval(waiting, tenant),
    )  # fmt: skip


def _budget(row: asyncpg.Record, opened_with: int) -> BudgetNow:
    amount = row["amount"] + row["carried"]
    numbers = (amount, row["spent"], row["held"], row["committed"], row["captured"])
    a, s, h, c, k = map(cents, numbers)
    return BudgetNow(
        id=row["id"], parent=row["parent_id"], opened_with=opened_with, policy=row["overspend_policy"],
        tolerance_bp=row["tolerance_bp"], thresholds_bp=row["alert_thresholds_bp"], numbers=(a, s, h, c, k),
        version=row["ledger_version"],
    )  # fmt: skip


def _entry(row: asyncpg.Record) -> Entry:
    after = zip(row["chain_amounts"], row["chain_spent"], row["chain_held"], row["chain_committed"], strict=True)
    a, s, h, c, k = (cents(row[f"moved_{name}"]) for name in ("amount", "spent", "held", "committed", "captured"))
    return Entry(
        id=row["id"], entry_type=row["entry_type"], budget=row["budget_id"], chain=row["chain_ids"],
        versions=row["chain_versions"],
        after=[(cents(amount), cents(spent), cents(held), cents(done)) for amount, spent, held, done in after],
        amount=cents(row["amount"]), moved=(a, s, h, c, k), key=row["request_id"] or "", hold=row["hold_id"],
        charge=row["charge_id"], at=row["create_time"].timestamp(),
    )  # fmt: skip


def _hold(row: asyncpg.Record) -> HoldNow:
    numbers = cents(row["amount"]), cents(row["captured"]), cents(row["released"]), row["state"]
    expires = row["expire_time"].timestamp() if row["expire_time"] else None
    return HoldNow(id=row["id"], budget=row["budget_id"], numbers=numbers, expires=expires)
