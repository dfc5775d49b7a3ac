"""The statements of the ledger. Each joins on (tenant, id), because the row policy admits several tenants at once.

Chains are locked in the order of their keys, so that transactions never deadlock. Rows are looked up by key in lateral
subqueries with `offset 0`: they use all columns of the index, even if the plan was made while the table was empty.
"""

from decimal import Decimal
from typing import Final
from uuid import UUID

from eventing import outbox
from eventing.outbox import OutboxRow
from kit import idempotency
from kit.columns import Column, Columns, of_table
from services.budgets.domain.alerts import Alert
from services.budgets.domain.balances import Balance
from services.budgets.domain.holds import Hold
from services.budgets.domain.postings import Entry, Key, RequestKey
from services.budgets.models.alerts import AlertRow
from services.budgets.models.budgets import BudgetRow
from services.budgets.models.holds import HoldRow
from services.budgets.models.ledger import EntryRow

TERMS: Final = (
    "tenant_id, id, entity_id, department_id, name, state, currency_code, overspend_policy, tolerance_bp,"
    " period_start_time, period_end_time, alert_thresholds_bp, period_start, time_zone,"
    " locked_until_time"
)
"""The columns of a budget in the order of the fields of Terms."""
NUMBERS: Final = "amount, carried, spent, held, committed, captured, ledger_version"
"""The columns of a budget in the order of the other fields of Balance."""
BALANCE: Final = f"{TERMS}, {NUMBERS}, ancestor_ids"

_TENANT, _ID = Column("tenant_id", "uuid"), Column("id", "uuid")
KEYS: Final = Columns[Key]([_TENANT, _ID], values=tuple)
CHAINS: Final = Columns[tuple[UUID, UUID | None, UUID | None]](
    [_TENANT, Column("budget_id", "uuid"), Column("hold_id", "uuid")], values=tuple
)
"""Chains by (tenant, budget, hold): the budget of the hold, if there is one."""
_REQUEST_KEY = [_TENANT, Column("method", "text", free_text=True), Column("key", "text", free_text=True)]
REQUESTS: Final = Columns[RequestKey](_REQUEST_KEY, values=tuple)
ReplyRow = tuple[UUID, str, str, bytes, bytes]
"""A reply to be stored under the key of its request: (tenant, method, key, fingerprint, reply)."""
REPLIES: Final = Columns[ReplyRow](
    [*_REQUEST_KEY, Column("fingerprint", "bytea", free_text=True), Column("reply", "bytea", free_text=True)],
    values=tuple,
)
BALANCES: Final = Columns[Balance](
    of_table(BudgetRow, "tenant_id", "id", "carried", "spent", "held", "committed", "captured", "ledger_version"),
    values=lambda b: (b.terms.tenant_id, b.terms.id, b.carried, b.spent, b.held, b.committed, b.captured, b.version),
)
ENTRIES: Final = Columns[Entry](of_table(EntryRow))
HOLDS: Final = Columns[Hold](of_table(HoldRow))
ALERTS: Final = Columns[Alert](of_table(AlertRow))
_EVENT = [
    Column("event_id", "uuid"), Column("event_tenant_id", "uuid"), Column("event_type", "text", free_text=True),
    Column("event_body", "text", free_text=True), Column("event_actor", "text", free_text=True),
    Column("event_traceparent", "text", free_text=True), Column("event_time", "timestamptz"),
]  # fmt: skip
_alert_values = [column.name for column in of_table(AlertRow)]
RAISED: Final = Columns[tuple[Alert, OutboxRow]](
    [*of_table(AlertRow), *_EVENT],
    values=lambda raised: [*(getattr(raised[0], name) for name in _alert_values), *raised[1].values],
)
"""Alerts, each with the event that is published if it is raised."""
RESOLVED: Final = Columns[tuple[object, ...]](
    of_table(AlertRow, "tenant_id", "budget_id", "alert_type", "threshold_bp", "update_time"), values=tuple
)

LOCK: Final = f"""
    with requests as (
        select distinct r.tenant_id, coalesce(h.budget_id, r.budget_id) as budget_id
        from {CHAINS.rows("r")}
        left join lateral (
            select budget_id from budget_holds where tenant_id = r.tenant_id and id = r.hold_id offset 0
        ) h on true
    ), chains as (
        select distinct r.tenant_id, unnest(b.ancestor_ids || b.id) as id
        from requests r cross join lateral (
            select id, ancestor_ids from budgets where tenant_id = r.tenant_id and id = r.budget_id offset 0
        ) b
        order by 1, 2
    ), locked as materialized (
        select b.* from chains c cross join lateral (
            select {BALANCE} from budgets where tenant_id = c.tenant_id and id = c.id for no key update
        ) b
    )
    select {BALANCE}, null::text as method, null::text as key, null::bytea as fingerprint, null::bytea as reply,
        clock_timestamp() as now
    from locked
    union all
    select k.tenant_id{", null" * BALANCE.count(",")}, k.method, k.key, i.fingerprint, i.reply, clock_timestamp()
    from {REQUESTS.rows("k", first=1 + len(CHAINS))} cross join lateral {idempotency.lookup("k")} i"""
"""Locks the chains of budgets, nearest first, and looks up the replies to requests."""
LATER: Final = f"""
    with recursive later as (
        select n.* from {KEYS.rows("r")} cross join lateral (
            select tenant_id, id from budgets where tenant_id = r.tenant_id and previous_id = r.id offset 0
        ) n
        union all
        select n.* from later l cross join lateral (
            select tenant_id, id from budgets where tenant_id = l.tenant_id and previous_id = l.id offset 0
        ) n
    )
    select distinct tenant_id, id from later"""
"""The budgets of all later periods of budgets."""
FIND_ROLLOVERS: Final = f"""
    select b.tenant_id, b.id, n.id, b.rollover, b.rollover_cap, b.carry_overspend, b.carried_forward, b.moved_holds,
        b.next_amount
    from {KEYS.rows("r")} cross join lateral (
        select * from budgets where tenant_id = r.tenant_id and id = r.id and carried_forward is not null offset 0
    ) b cross join lateral (
        select id from budgets where tenant_id = r.tenant_id and previous_id = r.id offset 0
    ) n"""
"""The rollovers of those budgets that were rolled over."""
ANSWERED: Final = f"""
    select exists (select from {REQUESTS.rows("k")} cross join lateral {idempotency.lookup("k")} i)"""
# The statement is its own transaction and sets its tenants itself. Everything else depends on `named`, so that it is
# evaluated before the row policy is applied.
READ: Final = f"""
    with named as materialized (
        select set_config('app.tenant_ids', ${1 + len(KEYS)}, true) <> '' as ready
    ), chains as (
        select distinct r.tenant_id, unnest(b.ancestor_ids || b.id) as id
        from named cross join {KEYS.rows("r")} cross join lateral (
            select id, ancestor_ids from budgets
            where named.ready and tenant_id = r.tenant_id and id = r.id offset 0
        ) b
    )
    select b.* from chains c cross join lateral (
        select {BALANCE} from budgets where tenant_id = c.tenant_id and id = c.id offset 0
    ) b"""
FIND_HOLDS: Final = f"""
    select h.* from {KEYS.rows("r")}
    cross join lateral (
        select {HOLDS.names} from budget_holds where tenant_id = r.tenant_id and id = r.id offset 0
    ) h"""
FIND_CHARGES: Final = f"""
    select e.*, r.refunded, r.original_refunded from {KEYS.rows("a")}
    cross join lateral (
        select tenant_id, id, budget_id, entry_type, amount, currency_code, original_amount, original_currency
        from budget_entries where tenant_id = a.tenant_id and id = a.id and entry_type in ('CHARGE', 'CAPTURE') offset 0
    ) e
    cross join lateral (
        select coalesce(sum(amount), 0) as refunded, coalesce(sum(original_amount), 0) as original_refunded
        from budget_entries where tenant_id = a.tenant_id and charge_id = a.id offset 0
    ) r"""
APPEND_ENTRIES: Final = ENTRIES.insert("budget_entries")
RECORD: Final = f"""
    with updated as (
        update budgets b set {BALANCES.assignments("m", exclude={"tenant_id", "id"})} from {BALANCES.rows("m")}
        where b.tenant_id = m.tenant_id and b.id = m.id
        returning 1
    ), entries as (
        {ENTRIES.insert("budget_entries", first=1 + len(BALANCES))}
    ), replies as (
        {REPLIES.insert("idempotency_keys", first=1 + len(BALANCES) + len(ENTRIES))}
    )
    select count(*) from updated"""
"""Updates balances, appends entries and stores replies. Returns the number of budgets."""
CARRIED: Final = Columns[tuple[UUID, UUID, Decimal]](
    of_table(BudgetRow, "tenant_id", "id", "carried_forward"), values=tuple
)
RECORD_CARRIED: Final = f"""
    update budgets b set carried_forward = m.carried_forward from {CARRIED.rows("m")}
    where b.tenant_id = m.tenant_id and b.id = m.id"""
_CHANGEABLE = of_table(
    HoldRow, "amount", "captured", "released", "original_open", "state", "expire_time", "last_entry_id", "version",
    "update_time",
)  # fmt: skip
RECORD_HOLDS: Final = f"""
    {HOLDS.insert("budget_holds")}
    on conflict (tenant_id, id) do update set {Columns[Hold](_CHANGEABLE).assignments("excluded")}"""
SET_ACTOR: Final = "select set_config('app.actor', $1, true), set_config('app.trace_id', $2, true)"
"""Sets on whose behalf the next statements are recorded in the audit log."""
RAISE_ALERTS: Final = f"""
    with rows as materialized (
        select * from {RAISED.rows("r")}
    ), raised as (
        insert into budget_alerts ({ALERTS.names}) select {ALERTS.names} from rows
        on conflict do nothing
        returning tenant_id, id
    )
    {outbox.INSERT}
    select event_id, event_tenant_id, event_type, event_body, event_actor, event_traceparent, event_time
    from rows join raised using (tenant_id, id)"""
"""Opens the alerts that are not open yet, and appends the events of those."""
RESOLVE_ALERTS: Final = f"""
    update budget_alerts a set state = 'RESOLVED', version = a.version + 1, update_time = r.update_time
    from {RESOLVED.rows("r")}
    where a.tenant_id = r.tenant_id and a.budget_id = r.budget_id and a.alert_type = r.alert_type
        and a.threshold_bp = r.threshold_bp and a.state <> 'RESOLVED'"""
