"""Create invoice schedules and their runs. An entity has one schedule, and a period of a schedule is run once."""

from alembic import op

from deploy import ddl

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.execute("""
        create table invoice_schedules (
            tenant_id uuid not null,
            id uuid not null,
            entity_id uuid not null,
            billing_profile_id uuid,
            currency_code text not null check (currency_code ~ '^([A-Z]{3})?$'),
            rate_policy text not null check (rate_policy in ('PERIOD_END', 'TRANSACTION_DATE', 'PERIOD_AVERAGE')),
            frequency text not null check (frequency in ('MONTHLY', 'QUARTERLY')),
            day_of_month integer not null check (day_of_month between 1 and 31),
            time_of_day text not null check (time_of_day ~ '^([01][0-9]|2[0-3]):[0-5][0-9]$'),
            time_zone text not null,
            action text not null check (action in ('DRAFT', 'ISSUE')),
            require_einvoice boolean not null,
            active boolean not null,
            next_period_end date not null check (extract(day from next_period_end) = 1),
            delete_time timestamptz,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint invoice_schedules_deleted_check check (delete_time is null or not active),
            foreign key (tenant_id, entity_id) references billing_entities (tenant_id, id),
            foreign key (tenant_id, billing_profile_id) references billing_profiles (tenant_id, id)
        )""")
    op.execute("""
        create unique index invoice_schedules_entity_key on invoice_schedules (tenant_id, entity_id)
        where delete_time is null""")
    op.execute("create index invoice_schedules_entity_idx on invoice_schedules (tenant_id, entity_id, id)")
    op.execute("create index invoice_schedules_profile_idx on invoice_schedules (tenant_id, billing_profile_id)")
    ddl.isolate("invoice_schedules")
    ddl.audit("invoice_schedules")
    _invoice_runs()


def _invoice_runs() -> None:
    op.execute("""
        create table invoice_runs (
            tenant_id uuid not null,
            id uuid not null,
            schedule_id uuid not null,
            entity_id uuid not null,
            period_start date not null,
            period_end date not null check (period_end > period_start),
            due_time timestamptz not null,
            state text not null check (state in ('COMPLETED', 'NOTHING_TO_BILL', 'RETRYING', 'FAILED')),
            attempts integer not null check (attempts > 0),
            attempt_time timestamptz not null,
            retry_time timestamptz,
            invoice_id uuid,
            invoice_number text not null,
            invoice_state text check (invoice_state in ('DRAFT', 'ISSUED', 'PARTIALLY_PAID', 'PAID', 'VOID')),
            problems jsonb not null check (jsonb_typeof(problems) = 'array'),
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint invoice_runs_period_key unique (tenant_id, schedule_id, period_end),
            constraint invoice_runs_invoice_check check ((invoice_id is null) = (invoice_state is null)),
            constraint invoice_runs_retry_check check ((state = 'RETRYING') = (retry_time is not null)),
            constraint invoice_runs_made_check check (state <> 'COMPLETED' or invoice_id is not null),
            foreign key (tenant_id, schedule_id) references invoice_schedules (tenant_id, id),
            foreign key (tenant_id, invoice_id) references consolidated_invoices (tenant_id, id)
        )""")
    op.execute("create index invoice_runs_schedule_idx on invoice_runs (tenant_id, schedule_id, id)")
    op.execute("create index invoice_runs_invoice_idx on invoice_runs (tenant_id, invoice_id)")
    ddl.isolate("invoice_runs")
    ddl.audit("invoice_runs")


def downgrade() -> None:
    op.execute("drop table invoice_runs")
    op.execute("drop table invoice_schedules")
