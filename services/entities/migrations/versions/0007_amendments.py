"""Create the tables of contract amendments and purchase order warnings."""

from alembic import op

from deploy import ddl

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    _contract_amendments()
    _purchase_order_warnings()


def _contract_amendments() -> None:
    op.execute("""
        create table contract_amendments (
            tenant_id uuid not null,
            id uuid not null,
            contract_id uuid not null,
            number integer not null check (number > 0),
            amendment_type text not null check (amendment_type in ('PRICE', 'TERM', 'SEATS', 'SCOPE', 'OTHER')),
            effective_date date not null,
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            changes jsonb not null check (changes ?& array['before', 'after']),
            proration jsonb not null check (jsonb_typeof(proration) = 'object'),
            reason text not null check (reason <> ''),
            state text not null check (state in ('DRAFT', 'APPROVED', 'APPLIED', 'REJECTED')),
            approved_by text not null,
            approve_time timestamptz,
            apply_time timestamptz,
            rejection_reason text not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint contract_amendments_number_key unique (tenant_id, contract_id, number),
            constraint contract_amendments_applied_check check ((state = 'APPLIED') = (apply_time is not null)),
            constraint contract_amendments_rejected_check check ((state = 'REJECTED') = (rejection_reason <> '')),
            foreign key (tenant_id, contract_id) references billing_contracts (tenant_id, id)
        )""")
    op.execute("create index contract_amendments_contract_idx on contract_amendments (tenant_id, contract_id, id)")
    op.execute("""
        create index contract_amendments_waiting_idx on contract_amendments (tenant_id, contract_id, effective_date)
        where state = 'APPROVED'""")
    ddl.isolate("contract_amendments")
    ddl.audit("contract_amendments")


def _purchase_order_warnings() -> None:
    op.execute("""
        create table purchase_order_warnings (
            tenant_id uuid not null,
            id uuid not null,
            contract_id uuid not null,
            purchase_order_number text not null check (purchase_order_number <> ''),
            purchase_order_limit numeric(20, 6) not null check (purchase_order_limit > 0),
            threshold_bp integer not null check (threshold_bp > 0),
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint purchase_order_warnings_once_key
                unique (tenant_id, contract_id, purchase_order_number, purchase_order_limit, threshold_bp),
            foreign key (tenant_id, contract_id) references billing_contracts (tenant_id, id)
        )""")
    ddl.isolate("purchase_order_warnings")
    ddl.append_only("entities", "purchase_order_warnings")


def downgrade() -> None:
    for table in ("purchase_order_warnings", "contract_amendments"):
        op.execute(f"drop table {table}")
