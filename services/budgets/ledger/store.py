"""The connection of the ledger: one transaction that reads and changes the balances of several tenants at once.

It uses asyncpg directly, because its statements run thousands of times a second. The transaction names its tenants in
`app.tenant_ids`: the row policy keeps out all others. Only the statements themselves separate the named tenants.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Final, TypeVar
from uuid import UUID

import asyncpg

from eventing import outbox, timers
from eventing.outbox import OutboxRow
from kit.columns import Columns
from kit.db import WriteSession
from kit.errors import Conflict
from kit.money import Money
from kit.origin import Origin
from kit.settings import Settings
from services.budgets.domain.alerts import Alert, AlertThreshold
from services.budgets.domain.balances import Balance, Terms
from services.budgets.domain.budgets import BudgetState, OverspendPolicy, Rollover
from services.budgets.domain.entries import EntryType
from services.budgets.domain.holds import HOLD_EXPIRY_TIMER, Hold, HoldState
from services.budgets.domain.late_postings import RolledOver
from services.budgets.domain.postings import Entry, Key, RequestKey
from services.budgets.domain.refunds import Charged
from services.budgets.errors.budgets import BudgetNotFound
from services.budgets.ledger import sql
from services.budgets.ledger.sql import ReplyRow

RowT = TypeVar("RowT")

ROLE: Final = "budgets_engine"
_LOCK_MS: Final = 50
"""How long a batch waits for a row that another transaction has locked; then it is split, so that only a part waits."""
_STATEMENT_S: Final = 5.0
_PLANS_S: Final = 10.0
"""Plans are dropped after this time: a plan that was made while a table was empty is slow later."""
_STATES: Final = {state.value: state for state in BudgetState}
_ROLLED_OVER: Final = {BudgetState.CLOSING, BudgetState.CLOSED}
_ROLLOVERS: Final = {rollover.value: rollover for rollover in Rollover}
_LOCK_ATTEMPTS: Final = 5
_POLICIES: Final = {policy.value: policy for policy in OverspendPolicy}
_TERMS: Final = len(Terms._fields)
_BALANCE: Final = _TERMS + len(Balance._fields) - 1


@dataclass(slots=True)
class LedgerSnapshot:
    """Balances with their ancestors, and the stored replies to requests."""

    balances: dict[Key, Balance]
    ancestors: dict[Key, Sequence[UUID]]
    """The budgets above each, nearest first."""
    replies: dict[RequestKey, tuple[bytes, bytes]]
    """Fingerprint and reply."""
    now: datetime
    """The time by the clock of the database."""
    rollovers: dict[Key, RolledOver] = field(default_factory=dict)
    """Rollovers of those budgets that were rolled over; `balances` has all their later periods."""

    @property
    def rolled_over(self) -> list[Key]:
        """The budgets that may have been rolled over: no others have later periods."""
        return [key for key, balance in self.balances.items() if balance.terms.state in _ROLLED_OVER]

    def chain(self, origin: Origin, budget_id: UUID, balances: Mapping[Key, Balance] | None = None) -> list[Balance]:
        """Return the budget and those above it. Raises BudgetNotFound if the caller may not see the budget.

        Budgets above count whether or not the caller may see them. `balances` replaces those of the snapshot.
        """
        balances = self.balances if balances is None else balances
        tenant_id, scope = origin.tenant_id, origin.scope
        balance = balances.get((tenant_id, budget_id))
        if balance is None or (scope and not scope.covers(balance.terms.entity_id, balance.terms.department_id)):
            raise BudgetNotFound(budget_id)
        return [balance, *[balances[tenant_id, above] for above in self.ancestors[tenant_id, budget_id]]]


class LedgerConnection:
    """A connection in the role of the engine; one transaction at a time."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url.get_secret_value()
        self._name = f"{settings.service} engine"
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._planned_at = 0.0

    @contextlib.asynccontextmanager
    async def begin(
        self, tenant_ids: Collection[UUID], *, lock_ms: int = _LOCK_MS
    ) -> AsyncIterator["LedgerTransaction"]:
        """Begin a transaction for these tenants; it commits at the end of the block, or rolls back on an error."""
        connection = await self._connected()
        tenants = ",".join(map(str, tenant_ids))
        try:
            # One message to the server; set_config would be parsed and planned.
            settings = f"set local app.tenant_ids = '{tenants}'; set local lock_timeout = {int(lock_ms)}"
            begin = f"begin; {settings}"
            await connection.execute(f"{self._drop_plans()}{begin}")
            yield LedgerTransaction(connection, begin)
            await connection.execute("commit")
        except BaseException:
            await self._roll_back(connection)
            raise

    async def read(self, keys: Collection[Key]) -> LedgerSnapshot:
        """Return the committed state of these budgets and those above them, in one round trip.

        Budgets that were rolled over take a few more; the snapshot then has their later periods, too.
        """
        connection = await self._connected()
        if drop_plans := self._drop_plans():
            await connection.execute(drop_plans)
        tenants = ",".join({str(tenant_id) for tenant_id, _ in keys})
        snapshot = _snapshot(await connection.fetch(sql.READ, *sql.KEYS.parameters(list(keys)), tenants))
        if not snapshot.rolled_over:
            return snapshot
        async with self.begin({tenant_id for tenant_id, _ in keys}) as transaction:
            return await transaction.read(keys, tenants)

    def _drop_plans(self) -> str:
        now = time.monotonic()
        if now - self._planned_at < _PLANS_S:
            return ""
        self._planned_at = now
        return "discard plans; "

    async def _roll_back(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Roll back, or close the connection if that fails."""
        try:
            await connection.execute("rollback", timeout=1.0)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
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
                    # One plan fits all parameters of the statements, and planning takes longer than running.
                    "plan_cache_mode": "force_generic_plan",
                    "jit": "off",
                    "idle_in_transaction_session_timeout": "10000",
                    "statement_timeout": str(int(_STATEMENT_S * 1000)),
                    "app.actor": "service:budgets",
                },
            )
        return self._connection

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()


class LedgerTransaction:
    """The reads and writes of a transaction of the engine."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", begin: str) -> None:
        """`begin` is the statement that has begun the transaction."""
        self._connection = connection
        self._begin = begin

    async def lock(
        self, chains: Collection[tuple[UUID, UUID | None, UUID | None]], requests: Collection[RequestKey]
    ) -> LedgerSnapshot:
        """Lock the chains of (tenant, budget, hold) until the transaction ends, and look up the keys of requests.

        A posting on a budget that was rolled over may change all its later periods: their chains are locked, too. All
        locks are taken again then, so that they are in one order. Raises Conflict if new periods open all the time.
        """
        chains = set(chains)
        for _ in range(_LOCK_ATTEMPTS):
            parameters = [*sql.CHAINS.parameters(list(chains)), *sql.REQUESTS.parameters(list(requests))]
            snapshot = _snapshot(await self._connection.fetch(sql.LOCK, *parameters))
            if not snapshot.rolled_over:
                return snapshot
            missing = await self._find_later(snapshot) - snapshot.balances.keys()
            if not missing:
                snapshot.rollovers = await self._find_rollovers(snapshot)
                return snapshot
            chains |= {(tenant_id, budget_id, None) for tenant_id, budget_id in missing}
            await self._connection.execute(f"rollback; {self._begin}")
        raise Conflict

    async def read(self, keys: Collection[Key], tenants: str) -> LedgerSnapshot:
        """Return the state of these budgets, those above them, and the later periods of all, in one snapshot."""
        await self._connection.execute("set transaction isolation level repeatable read")
        keys = set(keys)
        while True:
            snapshot = _snapshot(await self._connection.fetch(sql.READ, *sql.KEYS.parameters(list(keys)), tenants))
            missing = await self._find_later(snapshot) - snapshot.balances.keys()
            if not missing:
                snapshot.rollovers = await self._find_rollovers(snapshot)
                return snapshot
            keys |= missing

    async def _find_later(self, snapshot: LedgerSnapshot) -> set[Key]:
        rows = await self._fetch(sql.LATER, sql.KEYS, snapshot.rolled_over)
        return {(row["tenant_id"], row["id"]) for row in rows}

    async def _find_rollovers(self, snapshot: LedgerSnapshot) -> dict[Key, RolledOver]:
        rows = await self._fetch(sql.FIND_ROLLOVERS, sql.KEYS, snapshot.rolled_over)
        return {
            (tenant_id, budget_id): RolledOver(next_id, _ROLLOVERS[rollover], *terms)
            for tenant_id, budget_id, next_id, rollover, *terms in rows
        }

    async def any_answered(self, requests: Collection[RequestKey]) -> bool:
        """True if a request has a stored reply by now: `lock` does not see what is committed while it waits."""
        if not requests:
            return False
        return bool(await self._connection.fetchval(sql.ANSWERED, *sql.REQUESTS.parameters(list(requests))))

    async def find_holds(self, keys: Collection[Key]) -> dict[Key, Hold]:
        """Return the holds. They are stable now: a hold changes only under the lock of its budget."""
        rows = await self._fetch(sql.FIND_HOLDS, sql.KEYS, list(keys))
        return {(row["tenant_id"], row["id"]): Hold(**{**row, "state": HoldState(row["state"])}) for row in rows}

    async def find_charges(self, keys: Collection[Key]) -> dict[Key, Charged]:
        """Return charges and captures with what was refunded of them, stable under the locks of their budgets."""
        rows = await self._fetch(sql.FIND_CHARGES, sql.KEYS, list(keys))
        return {(row["tenant_id"], row["id"]): _charged(row) for row in rows}

    async def record(self, balances: Sequence[Balance], entries: Sequence[Entry], replies: Sequence[ReplyRow]) -> None:
        """Update the balances of locked budgets, append to their ledgers, and store the replies."""
        parameters = sql.BALANCES.parameters(balances), sql.ENTRIES.parameters(entries), sql.REPLIES.parameters(replies)
        updated = await self._connection.fetchval(sql.RECORD, *(value for each in parameters for value in each))
        if updated != len(balances):
            raise RuntimeError(f"{updated} budgets were updated, not {len(balances)}")

    async def record_carried(self, rollovers: Mapping[Key, RolledOver]) -> None:
        """Update the amounts that locked budgets have carried forward."""
        rows = [(*key, rolled_over.carried) for key, rolled_over in rollovers.items()]
        await self._fetch(sql.RECORD_CARRIED, sql.CARRIED, rows)

    async def record_holds(self, holds: Sequence[Hold], known: Collection[Key]) -> None:
        """Insert or update holds, and the timers of those that expire; `known` are the keys that exist already."""
        await self._fetch(sql.RECORD_HOLDS, sql.HOLDS, holds)
        expiring = [(*hold.key, hold.expire_time) for hold in holds if hold.expires and hold.key not in known]
        ended = [hold.key for hold in holds if not hold.expires and hold.key in known]
        if expiring:
            await self._connection.execute(timers.SET_ALL, *_transpose(expiring), HOLD_EXPIRY_TIMER)
        if ended:
            await self._connection.execute(timers.CANCEL_ALL, *_transpose(ended), HOLD_EXPIRY_TIMER)

    async def raise_alerts(self, alerts: Iterable[tuple[Alert, OutboxRow]]) -> None:
        """Open the alerts that are not open yet, each on behalf of the caller who crossed the threshold."""
        for (actor, trace_id), raised in groupby(
            alerts, lambda each: (each[1].actor, each[1].traceparent.split("-")[1])
        ):
            await self._connection.fetch(sql.SET_ACTOR, actor, trace_id)
            await self._fetch(sql.RAISE_ALERTS, sql.RAISED, list(raised))

    async def resolve_alerts(self, alerts: Iterable[tuple[Origin, Key, AlertThreshold]], now: datetime) -> None:
        """Resolve the alerts of thresholds, each on behalf of the caller who brought the budget back below it."""
        for origin, key, threshold in alerts:
            await self._connection.fetch(sql.SET_ACTOR, origin.actor, origin.trace.trace_id)
            await self._fetch(sql.RESOLVE_ALERTS, sql.RESOLVED, [(*key, *threshold, now)])

    async def append_events(self, events: Sequence[OutboxRow]) -> None:
        """Append events to the outbox."""
        if events:
            await self._connection.execute(outbox.INSERT_ALL, *outbox.parameters(events))

    async def fetch(self, statement: str, *parameters: object) -> "Sequence[asyncpg.Record]":
        """Return the rows of a statement of another module."""
        return await self._connection.fetch(statement, *parameters)

    async def _fetch(self, statement: str, columns: Columns[RowT], rows: Sequence[RowT]) -> "Sequence[asyncpg.Record]":
        """Return what a statement over rows returns; nothing for no rows."""
        return await self._connection.fetch(statement, *columns.parameters(rows)) if rows else []


def append_entries(tx: WriteSession, entries: Sequence[Entry]) -> None:
    """Append entries of budgets whose rows `tx` has locked and changed. They are written before the commit."""
    tx.defer(sql.APPEND_ENTRIES, *sql.ENTRIES.parameters(entries))


def raise_alerts(tx: WriteSession, alerts: Sequence[tuple[Alert, OutboxRow]]) -> None:
    """Open the alerts that are not open yet, and publish the events of those. They are written before the commit."""
    if alerts:
        tx.defer(sql.RAISE_ALERTS, *sql.RAISED.parameters(alerts))
        tx.appended = True


def resolve_alerts(tx: WriteSession, budget_id: UUID, thresholds: Iterable[AlertThreshold], now: datetime) -> None:
    """Resolve the alerts of thresholds of a budget. They are written before the commit."""
    rows = [(tx.tenant_id, budget_id, *threshold, now) for threshold in thresholds]
    if rows:
        tx.defer(sql.RESOLVE_ALERTS, *sql.RESOLVED.parameters(rows))


def _transpose(rows: Iterable[Sequence[object]]) -> Iterable[list[object]]:
    return map(list, zip(*rows, strict=True))


def _snapshot(rows: Sequence[asyncpg.Record]) -> LedgerSnapshot:
    snapshot = LedgerSnapshot({}, {}, {}, datetime.min.replace(tzinfo=UTC))
    for row in rows:
        tenant_id, id = row[0], row[1]
        if id is None:
            snapshot.replies[tenant_id, row["method"], row["key"]] = row["fingerprint"], row["reply"]
            continue
        key = tenant_id, id
        _, _, entity_id, department_id, name, state, currency, policy, *terms = row[:_TERMS]
        snapshot.balances[key] = Balance(
            Terms(tenant_id, id, entity_id, department_id, name, _STATES[state], currency, _POLICIES[policy], *terms),
            *row[_TERMS:_BALANCE],
        )
        snapshot.ancestors[key] = row[_BALANCE]
    if rows and len(rows[0]) > _BALANCE + 1:
        snapshot.now = rows[0]["now"]
    return snapshot


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
