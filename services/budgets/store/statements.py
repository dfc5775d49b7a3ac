"""The statements of the engine. Each joins on (tenant, id): its policy lets several tenants in.

Chains are locked in the order of their keys, so that two groups never wait for each other. What is looked up by key
stands in a lateral subquery with `offset 0`: it uses all columns of the index whatever the planner knows of the table,
which is empty when the first plan is made, and kept.
"""

CHAINS = """
    with asked as (
        select distinct a.tenant_id, coalesce(h.budget_id, a.budget_id) as budget_id
        from unnest($1::uuid[], $2::uuid[], $3::uuid[]) a (tenant_id, budget_id, hold_id)
        left join lateral (
            select budget_id from budget_holds where tenant_id = a.tenant_id and id = a.hold_id offset 0
        ) h on true
    ), chains as (
        select distinct a.tenant_id, unnest(b.ancestor_ids || b.id) as id
        from asked a cross join lateral (
            select id, ancestor_ids from budgets where tenant_id = a.tenant_id and id = a.budget_id offset 0
        ) b
        order by 1, 2
    )"""
BALANCE = (
    "tenant_id, id, ancestor_ids, entity_id, department_id, name, state, currency_code, overspend_policy,"
    " tolerance_bp, period_start_time, period_end_time, alert_thresholds_bp, amount, carried, spent, held, committed,"
    " captured, ledger_version, period_start, time_zone"
)
LOCK = f"""{CHAINS}, locked as materialized (
        select b.* from chains c cross join lateral (
            select {BALANCE} from budgets where tenant_id = c.tenant_id and id = c.id for no key update
        ) b
    ), answered as (
        select k.tenant_id, k.method, k.key, i.fingerprint, i.reply
        from unnest($4::uuid[], $5::text[], $6::text[]) k (tenant_id, method, key)
        cross join lateral (
            select fingerprint, reply from idempotency_keys
            where tenant_id = k.tenant_id and method = k.method and key = k.key offset 0
        ) i
    )
    select {BALANCE}, null::text as method, null::text as key, null::bytea as fingerprint, null::bytea as reply,
        clock_timestamp() as now
    from locked
    union all
    select tenant_id{", null" * 21}, method, key, fingerprint, reply, clock_timestamp() from answered"""
ANSWERED = """
    select exists (
        select from unnest($1::uuid[], $2::text[], $3::text[]) k (tenant_id, method, key)
        cross join lateral (
            select from idempotency_keys where tenant_id = k.tenant_id and method = k.method and key = k.key offset 0
        ) i
    )"""
# A transaction of its own: it names its tenants itself. Everything else hangs on what `named` gives, so that comes
# first; if it did not, the policy would show nothing.
LOOK = f"""
    with named as materialized (
        select set_config('app.tenant_ids', $3, true) <> '' as ready
    ), chains as (
        select distinct a.tenant_id, unnest(b.ancestor_ids || b.id) as id
        from named cross join unnest($1::uuid[], $2::uuid[]) a (tenant_id, budget_id) cross join lateral (
            select id, ancestor_ids from budgets
            where named.ready and tenant_id = a.tenant_id and id = a.budget_id offset 0
        ) b
    )
    select b.* from chains c cross join lateral (
        select {BALANCE} from budgets where tenant_id = c.tenant_id and id = c.id offset 0
    ) b"""
HOLDS = """
    select h.* from unnest($1::uuid[], $2::uuid[]) a (tenant_id, id)
    cross join lateral (select * from budget_holds where tenant_id = a.tenant_id and id = a.id offset 0) h"""
CHARGES = """
    select e.*, r.refunded, r.original_refunded
    from unnest($1::uuid[], $2::uuid[]) a (tenant_id, id)
    cross join lateral (
        select tenant_id, id, budget_id, entry_type, amount, currency_code, original_amount, original_currency
        from budget_entries where tenant_id = a.tenant_id and id = a.id and entry_type in ('CHARGE', 'CAPTURE') offset 0
    ) e
    cross join lateral (
        select coalesce(sum(amount), 0) as refunded, coalesce(sum(original_amount), 0) as original_refunded
        from budget_entries where tenant_id = a.tenant_id and charge_id = a.id offset 0
    ) r"""
RECORD = """
    with moved as (
        update budgets b set spent = m.spent, held = m.held, committed = m.committed, captured = m.captured,
            ledger_version = m.version
        from unnest($1::uuid[], $2::uuid[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[], $7::int[])
            m (tenant_id, id, spent, held, committed, captured, version)
        where b.tenant_id = m.tenant_id and b.id = m.id
        returning 1
    ), entered as (
        insert into budget_entries (
            tenant_id, id, entry_type, budget_id, chain_ids, chain_versions, chain_amounts, chain_spent, chain_held,
            chain_committed, amount, currency_code, moved_spent, moved_held, moved_committed, moved_captured, verdict,
            hold_id, charge_id, original_amount, original_currency, rate, rate_date, plan_amount, request_id,
            description, reference, actor, charge_time, create_time
        )
        select tenant_id, id, entry_type::entry_type, budget_id, chain_ids::uuid[], chain_versions::int[],
            chain_amounts::numeric[], chain_spent::numeric[], chain_held::numeric[], chain_committed::numeric[],
            amount::numeric, currency_code, moved_spent::numeric, moved_held::numeric, moved_committed::numeric,
            moved_captured::numeric, verdict::charge_verdict, hold_id, charge_id, original_amount, original_currency,
            rate, rate_date, plan_amount, request_id, description, reference, actor, charge_time, create_time
        from unnest(
            $8::uuid[], $9::uuid[], $10::text[], $11::uuid[], $12::text[], $13::text[], $14::text[], $15::text[],
            $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[],
            $23::text[], $24::text[], $25::uuid[], $26::uuid[], $27::numeric[], $28::text[], $29::numeric[],
            $30::date[], $31::numeric[], $32::text[], $33::text[], $34::text[], $35::text[], $36::timestamptz[],
            $37::timestamptz[]
        ) e (
            tenant_id, id, entry_type, budget_id, chain_ids, chain_versions, chain_amounts, chain_spent, chain_held,
            chain_committed, amount, currency_code, moved_spent, moved_held, moved_committed, moved_captured, verdict,
            hold_id, charge_id, original_amount, original_currency, rate, rate_date, plan_amount, request_id,
            description, reference, actor, charge_time, create_time
        )
    ), kept as (
        insert into idempotency_keys (tenant_id, method, key, fingerprint, reply)
        select * from unnest($38::uuid[], $39::text[], $40::text[], $41::bytea[], $42::bytea[])
    )
    select count(*) from moved"""
RECORD_HOLDS = """
    insert into budget_holds (
        tenant_id, id, budget_id, opened_budget_id, amount, captured, released, currency_code, original_amount,
        original_currency, rate, rate_date, state, expire_time, description, reference, request_id, actor,
        last_entry_id, version, create_time, update_time, approval_id
    )
    select h.tenant_id, h.id, h.budget_id, h.opened_budget_id, h.amount, h.captured, h.released, h.currency_code,
        h.original_amount, h.original_currency, h.rate, h.rate_date, h.state::hold_state, h.expire_time, h.description,
        h.reference, h.request_id, h.actor, h.last_entry_id, h.version, h.create_time, h.update_time, h.approval_id
    from unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::numeric[], $6::numeric[], $7::numeric[], $8::text[],
        $9::numeric[], $10::text[], $11::numeric[], $12::date[], $13::text[], $14::timestamptz[], $15::text[],
        $16::text[], $17::text[], $18::text[], $19::uuid[], $20::int[], $21::timestamptz[], $22::timestamptz[],
        $23::uuid[]
    ) h (
        tenant_id, id, budget_id, opened_budget_id, amount, captured, released, currency_code, original_amount,
        original_currency, rate, rate_date, state, expire_time, description, reference, request_id, actor,
        last_entry_id, version, create_time, update_time, approval_id
    )
    on conflict (tenant_id, id) do update set captured = excluded.captured, released = excluded.released,
        state = excluded.state, expire_time = excluded.expire_time, last_entry_id = excluded.last_entry_id,
        version = excluded.version, update_time = excluded.update_time"""
TIMERS_OFF = """
    delete from timers t using unnest($1::uuid[], $2::uuid[]) h (tenant_id, id)
    where t.tenant_id = h.tenant_id and t.kind = $3 and t.resource_id = h.id"""
TIMERS_ON = """
    insert into timers (tenant_id, kind, resource_id, due_time)
    select tenant_id, $4, id, due_time
    from unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) h (tenant_id, id, due_time)
    on conflict do nothing"""
AUDITED = "select set_config('app.actor', $1, true), set_config('app.trace_id', $2, true)"
RAISE = """
    with raised as (
        insert into budget_alerts (
            tenant_id, id, budget_id, alert_type, threshold_bp, utilisation_bp, currency_code, amount, spent, used,
            charge_id, state, version, create_time, update_time
        )
        values ($1, $2, $3, $4::text::alert_type, $5, $6, $7, $8, $9, $10, $11, 'OPEN', 1, $12, $12)
        on conflict do nothing
        returning tenant_id
    )
    insert into outbox (id, tenant_id, type, body, actor, traceparent, create_time)
    select $13, tenant_id, $14, $15, $16, $17, $12 from raised"""
RESOLVE = """
    update budget_alerts a set state = 'RESOLVED', version = a.version + 1, update_time = m.moment
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::int[], $5::timestamptz[])
        m (tenant_id, budget_id, alert_type, threshold_bp, moment)
    where a.tenant_id = m.tenant_id and a.budget_id = m.budget_id and a.alert_type = m.alert_type::alert_type
        and a.threshold_bp = m.threshold_bp and a.state <> 'RESOLVED'"""
SAY = """
    insert into outbox (id, tenant_id, type, body, actor, traceparent, create_time)
    select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])"""
