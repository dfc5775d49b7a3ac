"""Requests with their replies, and the stored ledger. Amounts are integer cents."""

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
"""Type of the ledger entry of an accepted request, by its RPC."""


class Link(NamedTuple):
    """A budget of the chain in a reply: available before and after."""

    budget: UUID
    before: int
    after: int


@dataclass(slots=True, kw_only=True)
class Result:
    """The content of a reply."""

    entry: UUID
    amount: int | None = None
    chain: Sequence[Link] = ()
    hold: UUID | None = None
    hold_numbers: tuple[int, int, int, str] | None = None
    """amount, captured, released, state"""
    refundable: int | None = None


@dataclass(slots=True, kw_only=True)
class Rejection:
    """A rejection, with the times of request and reply."""

    reason: str
    numbers: Mapping[str, str]
    start_time: float
    end_time: float
    earlier_in_batch: Sequence[tuple[UUID, int]] = ()
    """Budget and amount of earlier charges in a batch that was rolled back."""


@dataclass(slots=True, kw_only=True)
class SentRequest:
    """A request with its key, however often it was sent, and all replies."""

    method: str
    key: str
    budget: UUID
    amount: int | None = None
    hold: UUID | None = None
    charge: UUID | None = None
    request: Any = None
    reply: bytes = b""
    result: Result | None = None
    reply_time: float = 0.0
    """Time of the first reply."""
    rejections: list[Rejection] = field(default_factory=list)


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
    change: tuple[int, int, int, int, int]
    """amount, spent, held, committed, captured"""
    key: str
    hold: UUID | None
    charge: UUID | None
    at: float


@dataclass(slots=True, kw_only=True)
class StoredBudget:
    """A row of budgets."""

    id: UUID
    parent: UUID | None
    initial_amount: int
    policy: str
    tolerance_bp: int
    thresholds_bp: Sequence[int]
    numbers: tuple[int, int, int, int, int]
    """amount, spent, held, committed, captured"""
    version: int

    def limit(self, amount: int) -> int | None:
        """Return how much may be used of this amount; None for no limit."""
        if self.policy == "WARN":
            return None
        tolerance = self.tolerance_bp if self.policy == "ALLOW_WITHIN_TOLERANCE" else 0
        return amount * (10_000 + tolerance) // 10_000


@dataclass(slots=True, kw_only=True)
class StoredHold:
    """A row of budget_holds."""

    id: UUID
    budget: UUID
    numbers: tuple[int, int, int, str]
    """amount, captured, released, state"""
    expires: float | None


@dataclass(slots=True, kw_only=True)
class StoredAlert:
    """A row of budget_alerts."""

    id: UUID
    budget: UUID
    threshold: tuple[str, int]
    open: bool


@dataclass(slots=True, kw_only=True)
class Ledger:
    """All stored data of a tenant."""

    budgets: dict[UUID, StoredBudget]
    entries: list[Entry]
    holds: dict[UUID, StoredHold]
    alerts: list[StoredAlert] = field(default_factory=list)
    published_alerts: list[UUID] = field(default_factory=list)
    """The alert id of each BudgetAlertRaised in the outbox."""
    unpublished: int = 0


def cents(amount: Decimal | str) -> int:
    """Convert an amount of a currency with two decimal places to cents."""
    running_stack = Decimal(amount) * 100
    if running_stack != int(running_stack):
        raise ValueError(f"{amount} has more than two decimal places")
    return int(running_stack)


async def read_ledger(
    admin: "asyncpg.Connection[asyncpg.Record]", tenant: UUID, initial_amounts: Mapping[UUID, int]
) -> Ledger:
    """Read a consistent snapshot of the ledger of a tenant; `initial_amounts` by budget."""
    async with admin.transaction(isolation="repeatable_read", readonly=True):
        return await _read(admin, tenant, initial_amounts)


async def _read(
    admin: "asyncpg.Connection[asyncpg.Record]", tenant: UUID, initial_amounts: Mapping[UUID, int]
) -> Ledger:
    rows = {
        table: await admin.fetch(f"select * from budgets.{table} where tenant_id = $1", tenant)
        for table in ("budgets", "budget_entries", "budget_holds", "budget_alerts")
    }
    alert_events = await admin.fetch(
        "select body::jsonb -> 'alert' ->> 'id' as id from budgets.outbox where tenant_id = $1"
        " and type = 'billing.budgets.v1.BudgetAlertRaised'",
        tenant,
    )
    waiting = "select count(*) from budgets.outbox where tenant_id = $1 and publish_time is null"
    return Ledger(
        budgets={row["id"]: _budget(row, initial_amounts[row["id"]]) for row in rows["budgets"]},
        entries=[_entry(row) for row in rows["budget_entries"]],
        holds={row["id"]: _hold(row) for row in rows["budget_holds"]},
        alerts=[
            StoredAlert(
                id=row["id"], budget=row["budget_id"], threshold=(row["alert_type"], row["threshold_bp"]),
                open=row["state"] != "RESOLVED",
            )
            for row in rows["budget_alerts"]
        ],
        published_alerts=[UUID(row["id"].removeprefix("alr_")) for row in alert_events],
        unpublished=await admin.fetchval(waiting, tenant),
    )  # fmt: skip


def _budget(row: asyncpg.Record, initial_amount: int) -> StoredBudget:
    amount = row["amount"] + row["carried"]
    numbers = (amount, row["spent"], row["held"], row["committed"], row["captured"])
    a, s, h, c, k = map(cents, numbers)
    return StoredBudget(
        id=row["id"], parent=row["parent_id"], initial_amount=initial_amount, policy=row["overspend_policy"],
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
        amount=cents(row["amount"]), change=(a, s, h, c, k), key=row["request_id"] or "", hold=row["hold_id"],
        charge=row["charge_id"], at=row["create_time"].timestamp(),
    )  # fmt: skip


def _hold(row: asyncpg.Record) -> StoredHold:
    numbers = cents(row["amount"]), cents(row["captured"]), cents(row["released"]), row["state"]
    expires = row["expire_time"].timestamp() if row["expire_time"] else None
    return StoredHold(id=row["id"], budget=row["budget_id"], numbers=numbers, expires=expires)
