"""DDL shared by the migrations of all services: tenant isolation, audit, and the tables of kit and eventing.

Migrations call these functions, so a function must not change after a release has run it; add a new function instead.
"""

import contextlib
from collections.abc import Iterable, Iterator

from alembic import op

_TENANT = "tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)"
_EVERYWHERE = "(select current_setting('app.everywhere', true)) = 'on'"


def foundation(service: str) -> None:
    """Create the shared tables: audit_log, outbox, inbox, dead_letters, idempotency_keys."""
    _functions(service)
    op.execute("""
        create table audit_log (
            position bigint generated always as identity primary key,
            tenant_id uuid not null,
            resource_table text not null,
            resource_id uuid not null,
            action text not null check (action in ('insert', 'update', 'delete')),
            actor text not null,
            trace_id text not null,
            before jsonb,
            after jsonb,
            create_time timestamptz not null default now()
        )""")
    op.execute("create index audit_log_resource_idx on audit_log (tenant_id, resource_id, position)")
    op.execute("create index audit_log_time_idx on audit_log (tenant_id, create_time, position)")
    isolate("audit_log")
    append_only(service, "audit_log")
    op.execute("""
        create table outbox (
            id uuid primary key,
            tenant_id uuid not null,
            type text not null,
            body text not null,
            actor text not null,
            traceparent text not null,
            create_time timestamptz not null,
            publish_time timestamptz
        )""")
    op.execute("create index outbox_waiting_idx on outbox (id) where publish_time is null")
    op.execute("create index outbox_published_idx on outbox (publish_time) where publish_time is not null")
    isolate("outbox", relayed=True)
    op.execute("""
        create table inbox (
            tenant_id uuid not null,
            consumer text not null,
            event_id uuid not null,
            create_time timestamptz not null default now(),
            primary key (tenant_id, consumer, event_id)
        )""")
    isolate("inbox")
    append_only(service, "inbox")
    op.execute("""
        create table dead_letters (
            id uuid not null,
            tenant_id uuid not null,
            consumer text not null,
            event_id uuid not null,
            subject text not null,
            body text not null,
            actor text not null,
            traceparent text not null,
            error text not null,
            deliveries integer not null,
            create_time timestamptz not null default now(),
            primary key (tenant_id, id),
            unique (tenant_id, consumer, event_id)
        )""")
    isolate("dead_letters")
    op.execute("""
        create table idempotency_keys (
            tenant_id uuid not null,
            method text not null,
            key text not null,
            fingerprint bytea not null,
            reply bytea not null,
            create_time timestamptz not null default now(),
            primary key (tenant_id, method, key)
        )""")
    isolate("idempotency_keys")
    append_only(service, "idempotency_keys")


def drop_foundation() -> None:
    """Undo foundation()."""
    for table in ("idempotency_keys", "dead_letters", "inbox", "outbox", "audit_log"):
        op.execute(f"drop table {table}")
    op.execute("drop function record_change()")
    op.execute("drop function refuse_change()")


def timers(service: str) -> None:
    """Create the table of eventing.timers in the schema of the service."""
    op.execute(f"""
        create table {service}.timers (
            tenant_id uuid not null,
            kind text not null,
            resource_id uuid not null,
            due_time timestamptz not null,
            attempts integer not null default 0,
            create_time timestamptz not null default now(),
            primary key (tenant_id, kind, resource_id)
        )""")
    op.execute(f"create index timers_due_idx on {service}.timers (due_time)")
    isolate("timers", relayed=True)


def drop_timers() -> None:
    """Undo timers()."""
    op.execute("drop table timers")


def _functions(service: str) -> None:
    op.execute(f"""
        create function record_change() returns trigger language plpgsql as $$
        begin
            insert into {service}.audit_log (
                tenant_id, resource_table, resource_id, action, actor, trace_id, before, after
            )
            values (
                coalesce(new.tenant_id, old.tenant_id), tg_table_name, coalesce(new.id, old.id), lower(tg_op),
                coalesce(current_setting('app.actor', true), ''), coalesce(current_setting('app.trace_id', true), ''),
                case when tg_op <> 'INSERT' then to_jsonb(old) end, case when tg_op <> 'DELETE' then to_jsonb(new) end
            );
            return null;
        end $$""")
    op.execute("""
        create function refuse_change() returns trigger language plpgsql as $$
        begin
            raise exception '% is append-only', tg_table_name using errcode = 'insufficient_privilege';
        end $$""")


def isolate(table: str, *, relayed: bool = False) -> None:
    """Add row-level security by tenant, also for the owner of the table.

    `relayed` admits the rows of all tenants in transactions with `app.everywhere` = on. Only for the outbox and the
    timers, which one process handles for all tenants.
    """
    condition = f"{_TENANT} or {_EVERYWHERE}" if relayed else _TENANT
    op.execute(f"alter table {table} enable row level security")
    op.execute(f"alter table {table} force row level security")
    op.execute(f"create policy {table}_tenant on {table} using ({condition}) with check ({condition})")


def audit(table: str, *, columns: Iterable[str] = ()) -> None:
    """Write each change to the audit log in its transaction; with `columns`, only updates of these columns."""
    touched = f" of {', '.join(columns)}" if columns else ""
    op.execute(f"""
        create trigger {table}_audit after insert or delete or update{touched} on {table}
        for each row execute function record_change()""")


def append_only(service: str, table: str) -> None:
    """Reject updates and deletes of the table, from any role."""
    op.execute(f"revoke update, delete, truncate on {table} from {service}_app")
    op.execute(f"""
        create trigger {table}_append_only before update or delete on {table}
        for each row execute function refuse_change()""")


@contextlib.contextmanager
def of_all_tenants(table: str) -> Iterator[None]:
    """Let a migration change the rows of all tenants inside the block, without audit records."""
    op.execute(f"alter table {table} no force row level security")
    op.execute(f"alter table {table} disable trigger user")
    yield
    op.execute(f"alter table {table} enable trigger user")
    op.execute(f"alter table {table} force row level security")


def share_among_tenants(table: str, role: str) -> None:
    """Let `role` alone access several tenants in one transaction: exactly those named in `app.tenant_ids`.

    The policy doesn't separate the named tenants from each other, so every statement must join on (tenant_id, id).
    """
    named = "string_to_array(nullif(current_setting('app.tenant_ids', true), ''), ',')::uuid[]"
    condition = f"tenant_id in (select unnest({named}))"
    op.execute(f"create policy {table}_tenants on {table} to {role} using ({condition}) with check ({condition})")


def keep_to_one_tenant(table: str, role: str) -> None:
    """Undo share_among_tenants()."""
    op.execute(f"drop policy {table}_tenants on {table}")
    op.execute(f"revoke all on {table} from {role}")


def protect_version_table(service: str) -> None:
    """Revoke the rights of the serving role on Alembic's table, which only migrations use."""
    op.execute(f"revoke all on {service}.alembic_version from {service}_app")


def unprotect_version_table(service: str) -> None:
    """Undo protect_version_table()."""
    op.execute(f"grant select, insert, update, delete on {service}.alembic_version to {service}_app")


def audit_as_owner(service: str, *, engine: str = "") -> None:
    """Let only the audit trigger insert into the audit log: it runs with the rights of the owner of the table.

    The tenant of a record is that of a row that the caller was allowed to write. `engine` is the role that writes for
    several tenants.
    """
    op.execute("alter function record_change() security definer set search_path = pg_catalog, pg_temp")
    op.execute(f"create policy audit_log_trigger on audit_log for insert to {service}_owner with check (true)")
    op.execute(f"revoke insert on audit_log from {service}_app")
    if engine:
        keep_to_one_tenant("audit_log", engine)


def audit_as_caller(service: str, *, engine: str = "") -> None:
    """Undo audit_as_owner()."""
    op.execute("alter function record_change() security invoker reset search_path")
    op.execute("drop policy audit_log_trigger on audit_log")
    op.execute(f"grant insert on audit_log to {service}_app")
    if engine:
        share_among_tenants("audit_log", engine)
        op.execute(f"grant insert on audit_log to {engine}")


def count_dead_letters() -> None:
    """Admit reads of the dead letters of all tenants in transactions with `app.everywhere` = on, to count them."""
    op.execute(f"create policy dead_letters_count on dead_letters for select using ({_EVERYWHERE})")


def hide_dead_letters() -> None:
    """Undo count_dead_letters()."""
    op.execute("drop policy dead_letters_count on dead_letters")
