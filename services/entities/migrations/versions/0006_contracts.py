"""Create the tables of contracts, their signatures, numbers and notices.

Columns that lists are filtered by are text with a CHECK, not an enum type: under row-level security PostgreSQL uses an
index on text, but not on an enum type.
"""

from alembic import op

from deploy import ddl

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    ddl.timers("entities")
    _billing_contracts()
    _contract_signatures()
    _contract_notices()
    op.execute("""
        create table contract_numbers (
            tenant_id uuid not null,
            year integer not null,
            last_number integer not null check (last_number > 0),
            primary key (tenant_id, year)
        )""")
    ddl.isolate("contract_numbers")


def _billing_contracts() -> None:
    op.execute("""
        create table billing_contracts (
            tenant_id uuid not null,
            id uuid not null,
            entity_id uuid not null,
            contract_number text not null check (contract_number <> ''),
            name text not null check (name <> ''),
            contract_type text not null check (
                contract_type in ('SUBSCRIPTION', 'ENTERPRISE_LICENSE', 'USAGE_COMMITMENT', 'SERVICES', 'MASTER')
            ),
            start_date date not null,
            end_date date check (end_date > start_date),
            total_value numeric(20, 6) not null check (total_value >= 0),
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            billing_frequency text not null check (
                billing_frequency in ('MONTHLY', 'QUARTERLY', 'ANNUAL', 'ONE_TIME')
            ),
            phases jsonb not null check (jsonb_typeof(phases) = 'array'),
            minimum_commitment numeric(20, 6) check (minimum_commitment > 0),
            license_tier text not null,
            seats integer not null check (seats >= 0),
            payment_terms_days integer not null check (payment_terms_days between 0 and 365),
            purchase_order_number text not null,
            purchase_order_limit numeric(20, 6) check (purchase_order_limit > 0),
            auto_renew boolean not null,
            renewal_term_months integer not null check (renewal_term_months > 0),
            renewal_notice_days integer not null check (renewal_notice_days >= 0),
            renewal_uplift_bp integer not null check (renewal_uplift_bp between 0 and 10000),
            sla_terms jsonb check (jsonb_typeof(sla_terms) = 'object'),
            renewed_from_id uuid,
            renewed_to_id uuid,
            license_state text not null check (
                license_state in ('NONE', 'REQUESTED', 'PROVISIONED', 'FAILED', 'RELEASED')
            ),
            license_id text not null,
            license_problem text not null,
            state text not null check (
                state in (
                    'DRAFT', 'PENDING_APPROVAL', 'PENDING_SIGNATURE', 'ACTIVE', 'SUSPENDED', 'EXPIRED', 'TERMINATED',
                    'RENEWED'
                )
            ),
            activate_time timestamptz,
            suspend_time timestamptz,
            suspension_reason text not null,
            termination_date date,
            termination_reason text not null,
            terminated_for_cause boolean not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint billing_contracts_number_key unique (tenant_id, contract_number),
            constraint billing_contracts_evergreen_check check (end_date is not null or not auto_renew),
            constraint billing_contracts_suspended_check check ((state = 'SUSPENDED') = (suspend_time is not null)),
            constraint billing_contracts_ended_check check (
                state not in ('EXPIRED', 'RENEWED') or end_date is not null
            ),
            foreign key (tenant_id, entity_id) references billing_entities (tenant_id, id),
            foreign key (tenant_id, renewed_from_id) references billing_contracts (tenant_id, id),
            foreign key (tenant_id, renewed_to_id) references billing_contracts (tenant_id, id)
        )""")
    op.execute("create index billing_contracts_entity_idx on billing_contracts (tenant_id, entity_id, id)")
    op.execute("create index billing_contracts_state_idx on billing_contracts (tenant_id, state, id)")
    op.execute("create index billing_contracts_type_idx on billing_contracts (tenant_id, contract_type, id)")
    op.execute("create index billing_contracts_end_idx on billing_contracts (tenant_id, end_date, id)")
    op.execute("create index billing_contracts_renewed_to_idx on billing_contracts (tenant_id, renewed_to_id)")
    # At most one successor that was not withdrawn, whatever the service does.
    op.execute("""
        create unique index billing_contracts_renewed_from_key on billing_contracts (tenant_id, renewed_from_id)
        where state <> 'TERMINATED'""")
    ddl.isolate("billing_contracts")
    ddl.audit("billing_contracts")


def _contract_signatures() -> None:
    op.execute("""
        create table contract_signatures (
            tenant_id uuid not null,
            id uuid not null,
            contract_id uuid not null,
            party text not null check (party in ('OURS', 'COUNTERPARTY')),
            signer_name text not null check (signer_name <> ''),
            signer_title text not null,
            document_digest text not null check (document_digest ~ '^[0-9a-f]{64}$'),
            recorded_by text not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint contract_signatures_party_key unique (tenant_id, contract_id, party),
            foreign key (tenant_id, contract_id) references billing_contracts (tenant_id, id)
        )""")
    ddl.isolate("contract_signatures")
    ddl.audit("contract_signatures")
    ddl.append_only("entities", "contract_signatures")


def _contract_notices() -> None:
    op.execute("""
        create table contract_notices (
            tenant_id uuid not null,
            id uuid not null,
            contract_id uuid not null,
            end_date date not null,
            kind text not null check (kind in ('RENEWAL_DUE')),
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint contract_notices_once_key unique (tenant_id, contract_id, end_date, kind),
            foreign key (tenant_id, contract_id) references billing_contracts (tenant_id, id)
        )""")
    ddl.isolate("contract_notices")
    ddl.append_only("entities", "contract_notices")


def downgrade() -> None:
    for table in ("contract_numbers", "contract_notices", "contract_signatures", "billing_contracts"):
        op.execute(f"drop table {table}")
    ddl.drop_timers()
