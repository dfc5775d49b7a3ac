"""Create exchange rates."""

from alembic import op

from deploy import ddl

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
        create table exchange_rates (
            tenant_id uuid not null,
            id uuid not null,
            base_currency char(3) not null check (base_currency ~ '^[A-Z]{3}$'),
            quote_currency char(3) not null check (quote_currency ~ '^[A-Z]{3}$'),
            effective_date date not null,
            rate numeric(24, 12) not null check (rate > 0),
            source text not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint exchange_rates_day_key unique (tenant_id, base_currency, quote_currency, effective_date),
            check (base_currency <> quote_currency)
        )""")
    op.execute("create index exchange_rates_quote_idx on exchange_rates (tenant_id, quote_currency, id)")
    ddl.isolate("exchange_rates")
    ddl.audit("exchange_rates")


def downgrade() -> None:
    op.execute("drop table exchange_rates")
