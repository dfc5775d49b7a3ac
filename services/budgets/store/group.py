"""The SQL of the engine: one transaction that reads and moves the balances of many calls, of several tenants at once.

Raw asyncpg, since these statements run thousands of times a second. The transaction names its tenants in
`app.tenant_ids`, which keeps out every other; among those it names only the statements themselves keep one from the
other, so each of them joins on (tenant, id).
"""

import contextlib
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg

from eventing.outbox import OutboxRow
from kit.money import Money
from kit.origin import Origin
from kit.settings import Settings
from services.budgets.domain.balances import Balance, Movement, Terms
from services.budgets.domain.budgets import BudgetState, OverspendPolicy
from services.budgets.domain.entries import ChargeVerdict, EntryType
from services.budgets.domain.holds import Hold, HoldState
from services.budgets.domain.marks import Mark
from services.budgets.domain.refunds import Charged
from services.budgets.errors.budgets import BudgetNotFound
from services.budgets.store.statements import (
    ANSWERED,
    AUDITED,
    CHARGES,
    HOLDS,
    LOCK,
    LOOK,
    RAISE,
    RECORD,
    RECORD_HOLDS,
    RESOLVE,
    SAY,
    TIMERS_OFF,
    TIMERS_ON,
)

Key = tuple[UUID, UUID]
"""A row of a tenant: (tenant, id)."""
RequestKey = tuple[UUID, str, str]
"""What a caller named a request by: (tenant, method, key)."""

_LOCK_MS: Final = 50
"""How long a group waits for a row that somebody else has locked; then it is split: only those wait who must."""
_STATEMENT_S: Final = 5.0
_PLANNED_S: Final = 10.0
ROLE: Final = "budgets_engine"


@dataclass(slots=True, kw_only=True)
class Entry:
    """An entry to be appended to the ledger."""

    id: UUID
    entry_type: EntryType
    chain: Sequence[Balance]
    """The budgets that it moves as it leaves them; the one asked for first."""
    amount: Decimal
    movement: Movement
    verdict: ChargeVerdict | None
    hold_id: UUID | None
    charge_id: UUID | None
    original: Money | None
    rate: Decimal | None
    rate_date: date | None
    plan_amount: Decimal | None
    request_id: str | None
    description: str
    reference: str
    actor: str
    charge_time: datetime
    create_time: datetime


@dataclass(slots=True, kw_only=True)
class KeptReply:
    """An answer to be kept under the key of its request."""

    request: RequestKey
    fingerprint: bytes
    reply: bytes


@dataclass(slots=True, kw_only=True)
class RaisedAlert:
    """An alert to be raised unless it is open already, and the event that says so if it is raised."""

    id: UUID
    balance: Balance
    mark: Mark
    entry_id: UUID
    at: datetime
    event: OutboxRow


@dataclass(slots=True, kw_only=True)
class StoredHold:
    """A hold with all that its message tells."""

    hold: Hold
    opened_budget_id: UUID
    original: Money | None
    rate: Decimal | None
    rate_date: date | None
    description: str
    reference: str
    request_id: str
    actor: str
    last_entry_id: UUID
    version: int
    create_time: datetime
    update_time: datetime
    approval_id: UUID | None = None
    """The approval request it is for."""


@dataclass(slots=True)
class Found:
    """What a group reads under its locks."""

    balances: dict[Key, Balance]
    ancestors: dict[Key, Sequence[UUID]]
    """The budgets above each, nearest first."""
    replies: dict[RequestKey, tuple[bytes, bytes]]
    """Fingerprint and reply of what was answered before."""
    now: datetime
    """The database's clock."""

    def chain(self, origin: Origin, budget_id: UUID) -> Sequence[Balance]:
        """The budget and all above it; raises BudgetNotFound where the caller may not see it.

        Those above it count whether the caller may see them or not.
        """
        balance, scope = self.balances.get((origin.tenant_id, budget_id)), origin.scope
        if balance is None or (scope and not scope.covers(balance.terms.entity_id, balance.terms.department_id)):
            raise BudgetNotFound(budget_id)
        above = self.ancestors[origin.tenant_id, budget_id]
        return [balance, *[self.balances[origin.tenant_id, ancestor_id] for ancestor_id in above]]


class Engine:
    """A connection of the engine's own; one transaction at a time."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url.get_secret_value()
        self._name = f"{settings.service} engine"
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._planned_at = 0.0

    @contextlib.asynccontextmanager
    async def begin(self, tenant_ids: Collection[UUID], *, lock_ms: int = _LOCK_MS) -> AsyncIterator["Group"]:
        """A transaction for these tenants; it commits at the end of the block, or nothing happened."""
        connection = await self._connected()
        named = ",".join(map(str, tenant_ids))
        try:
            # One message to the server; set_config would be parsed and planned.
            settings = f"set local app.tenant_ids = '{named}'; set local lock_timeout = {int(lock_ms)}"
            await connection.execute(f"{self._forgotten()}begin; {settings}")
            yield Group(connection)
            await connection.execute("commit")
        except BaseException:
            await self._rolled_back(connection)
            raise

    async def look(self, asked: Collection[Key]) -> Found:
        """The chains of (tenant, budget) as they are, in one round trip."""
        connection = await self._connected()
        if forgotten := self._forgotten():
            await connection.execute(forgotten)
        named = ",".join({str(tenant_id) for tenant_id, _ in asked})
        return _found(await connection.fetch(LOOK, *_columns(asked, 2), named))

    def _forgotten(self) -> str:
        """Now and then, the order to forget all plans: one that was made when a table was empty is bad later."""
        now = time.monotonic()
        if now - self._planned_at < _PLANNED_S:
            return ""
        self._planned_at = now
        return "discard plans; "

    async def _rolled_back(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Leave a connection on which nothing is under way; where that can't be had, none."""
        try:
            await connection.execute("rollback", timeout=1.0)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            connection.terminate()
            self._connection = None

    async def _connected(self) -> "asyncpg.Connection[asyncpg.Record]":
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._url,
                timeout=5,
                command_timeout=_STATEMENT_S,
                server_settings={
                    "application_name": self._name,
                    "role": ROLE,
                    # The statements are written so that one plan is good for all; to plan them takes longer than to
                    # run them.
                    "plan_cache_mode": "force_generic_plan",
                    "jit": "off",
                    "idle_in_transaction_session_timeout": "10000",
                    "statement_timeout": str(int(_STATEMENT_S * 1000)),
                    "app.actor": "service:budgets",
                },
            )
        return self._connection

    async def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            await self._connection.close()


class Group:
    """What a transaction of the engine reads and writes."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def lock(
        self, asked: Collection[tuple[UUID, UUID | None, UUID | None]], requests: Collection[RequestKey]
    ) -> Found:
        """Lock the chains of (tenant, budget, hold) until the transaction ends, and look the keys up first of all."""
        tenants, methods, keys = _columns(requests, 3)
        rows = await self._connection.fetch(LOCK, *_columns(asked, 3), tenants, methods, keys)
        return _found(rows)

    async def answered(self, requests: Collection[RequestKey]) -> bool:
        """Whether any of them was answered by now: while `lock` waits, others answer what it does not see any more."""
        return bool(requests) and await self._connection.fetchval(ANSWERED, *_columns(requests, 3))

    async def holds(self, keys: Collection[Key]) -> dict[Key, StoredHold]:
        """The holds as they are now that their budgets are locked: a hold changes under the lock of its budget only."""
        rows = await self._connection.fetch(HOLDS, *_columns(keys, 2)) if keys else []
        return {(row["tenant_id"], row["id"]): _stored_hold(row) for row in rows}

    async def charges(self, keys: Collection[Key]) -> dict[Key, Charged]:
        """Charges and captures with what was refunded of them, now that their budgets are locked."""
        rows = await self._connection.fetch(CHARGES, *_columns(keys, 2)) if keys else []
        return {(row["tenant_id"], row["id"]): _charged(row) for row in rows}

    async def record(
        self, balances: Collection[Balance], entries: Sequence[Entry], replies: Sequence[KeptReply]
    ) -> None:
        """Set the numbers of the locked budgets, append to their ledgers, and keep the answers."""
        moved = await self._connection.fetchval(
            RECORD,
            *_columns([_numbers(balance) for balance in balances], 7),
            *_columns([_entered(entry) for entry in entries], 30),
            *_columns([(*kept.request, kept.fingerprint, kept.reply) for kept in replies], 5),
        )
        if moved != len(balances):
            raise RuntimeError(f"{moved} budgets were moved, not {len(balances)}")

    async def record_holds(self, holds: Mapping[Key, StoredHold], timer: str) -> None:
        """Insert or change holds, and the timers of those that expire."""
        if not holds:
            return
        await self._connection.execute(RECORD_HOLDS, *_columns([_held(*item) for item in holds.items()], 23))
        waiting = [(*key, stored.hold.expires) for key, stored in holds.items() if _expires(stored.hold)]
        ended = [key for key, stored in holds.items() if not _expires(stored.hold) and stored.version > 1]
        if waiting:
            await self._connection.execute(TIMERS_ON, *_columns(waiting, 3), timer)
        if ended:
            await self._connection.execute(TIMERS_OFF, *_columns(ended, 2), timer)

    async def raise_alerts(self, alerts: Sequence[RaisedAlert]) -> None:
        """Open those alerts that are not open, and say so."""
        for alert in alerts:
            event = alert.event
            await self._connection.fetchval(AUDITED, event.actor, event.traceparent.split("-")[1])
            await self._connection.fetchval(RAISE, *_alert(alert))

    async def resolve_alerts(self, marks: Sequence[tuple[Origin, Balance, Mark]], moment: datetime) -> None:
        """Resolve the alerts of marks that budgets are no longer past, each on behalf of who brought it back."""
        for origin, balance, mark in marks:
            await self._connection.fetchval(AUDITED, origin.actor, origin.trace.trace_id)
            row = balance.terms.tenant_id, balance.terms.id, mark.type, mark.threshold_bp, moment
            await self._connection.execute(RESOLVE, *_columns([row], 5))

    async def say(self, events: Sequence[OutboxRow]) -> None:
        """Append events to the outbox."""
        if events:
            rows = [(e.id, e.tenant_id, e.type, e.body, e.actor, e.traceparent, e.create_time) for e in events]
            await self._connection.execute(SAY, *_columns(rows, 7))

    async def fetch(self, statement: str, rows: Collection[Sequence[Any]], *others: object) -> list[asyncpg.Record]:
        """What another statement of the engine gives for rows, which it takes as the lists of their columns."""
        return await self._connection.fetch(statement, *zip(*rows, strict=True), *others) if rows else []


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows as the lists of their columns, for unnest."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _found(rows: Iterable[asyncpg.Record]) -> Found:
    found = Found({}, {}, {}, datetime.min.replace(tzinfo=UTC))
    for row in rows:
        if row["id"] is None:
            found.replies[row["tenant_id"], row["method"], row["key"]] = row["fingerprint"], row["reply"]
            continue
        key = row["tenant_id"], row["id"]
        found.balances[key] = _balance(row)
        found.ancestors[key] = row["ancestor_ids"]
    if rows and "now" in next(iter(rows)):
        found.now = next(iter(rows))["now"]
    return found


def _balance(row: asyncpg.Record) -> Balance:
    (tenant_id, id, _, entity_id, department_id, name, state, currency, policy, tolerance_bp, starts, ends, thresholds,
     amount, carried, spent, held, committed, captured, version, period_start, time_zone, *_) = row  # fmt: skip
    terms = Terms(
        tenant_id, id, entity_id, department_id, name, BudgetState(state), currency, OverspendPolicy(policy),
        tolerance_bp, starts, ends, thresholds, period_start, time_zone,
    )  # fmt: skip
    return Balance(terms, amount, carried, spent, held, committed, captured, version)


def _stored_hold(row: asyncpg.Record) -> StoredHold:
    return StoredHold(
        hold=Hold(
            row["id"],
            row["budget_id"],
            row["currency_code"],
            row["amount"],
            row["captured"],
            row["released"],
            HoldState(row["state"]),
            row["expire_time"],
        ),
        opened_budget_id=row["opened_budget_id"],
        original=Money(row["original_amount"], row["original_currency"]) if row["original_currency"] else None,
        rate=row["rate"],
        rate_date=row["rate_date"],
        description=row["description"],
        reference=row["reference"],
        request_id=row["request_id"],
        actor=row["actor"],
        last_entry_id=row["last_entry_id"],
        version=row["version"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        approval_id=row["approval_id"],
    )


def _charged(row: asyncpg.Record) -> Charged:
    amount = Money(row["amount"], row["currency_code"])
    converted = row["original_currency"] is not None
    return Charged(
        id=row["id"],
        budget_id=row["budget_id"],
        entry_type=EntryType(row["entry_type"]),
        amount=amount,
        original=Money(row["original_amount"], row["original_currency"]) if converted else amount,
        refunded=row["refunded"],
        original_refunded=row["original_refunded"] if converted else row["refunded"],
    )


def _numbers(balance: Balance) -> tuple[Any, ...]:
    terms, _, _, spent, held, committed, captured, version = balance
    return terms.tenant_id, terms.id, spent, held, committed, captured, version


def _list(values: Iterable[object]) -> str:
    """An array in PostgreSQL's own writing: unnest would take a list of lists apart to its last item."""
    return "{" + ",".join(map(str, values)) + "}"


def _entered(entry: Entry) -> tuple[Any, ...]:
    chain, movement, original = entry.chain, entry.movement, entry.original
    own = chain[0].terms
    return (
        own.tenant_id, entry.id, entry.entry_type, own.id,
        _list([balance.terms.id for balance in chain]),
        _list([balance.version for balance in chain]),
        _list([balance.total for balance in chain]),
        _list([balance.spent for balance in chain]),
        _list([balance.held for balance in chain]),
        _list([balance.committed for balance in chain]),
        str(entry.amount), own.currency, *map(str, movement), entry.verdict, entry.hold_id, entry.charge_id,
        original.amount if original else None, original.currency if original else None,
        entry.rate, entry.rate_date, entry.plan_amount, entry.request_id, entry.description, entry.reference,
        entry.actor, entry.charge_time, entry.create_time,
    )  # fmt: skip


def _expires(hold: Hold) -> bool:
    return hold.state is HoldState.HELD and hold.expires is not None


def _held(key: Key, stored: StoredHold) -> tuple[Any, ...]:
    hold, original = stored.hold, stored.original
    return (
        *key, hold.budget_id, stored.opened_budget_id, hold.amount, hold.captured, hold.released, hold.currency,
        original.amount if original else None, original.currency if original else None, stored.rate, stored.rate_date,
        hold.state, hold.expires, stored.description, stored.reference, stored.request_id, stored.actor,
        stored.last_entry_id, stored.version, stored.create_time, stored.update_time, stored.approval_id,
    )  # fmt: skip


def _alert(alert: RaisedAlert) -> tuple[Any, ...]:
    balance, event = alert.balance, alert.event
    terms = balance.terms
    return (
        terms.tenant_id, alert.id, terms.id, alert.mark.type, alert.mark.threshold_bp, balance.utilisation_bp,
        terms.currency, balance.total, balance.spent, balance.used, alert.entry_id, alert.at, event.id,
        event.type, event.body, event.actor, event.traceparent,
    )  # fmt: skip
