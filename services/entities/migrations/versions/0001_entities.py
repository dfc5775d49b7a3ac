"""Create entities, departments, and the history of the tree of departments.

Under row-level security PostgreSQL uses an index only for leakproof operators: `=` of uuid and text, but not of enums,
and not ILIKE. An index on a state, a type or the trigrams of a name would never be used, so there is none: these
filters run over the rows of the tenant in the order of the primary key.
"""

from alembic import op

from deploy import ddl

revision = "0001"
down_revision = None


def upgrade() -> None:
    ddl.foundation("entities")
    op.execute("create type entity_type as enum ('HOLDING', 'SUBSIDIARY', 'DIVISION', 'BRANCH')")
    op.execute("create type entity_state as enum ('ACTIVE', 'INACTIVE')")
    op.execute("create type consolidation as enum ('INCLUDE', 'SEPARATE')")
    op.execute("create type department_state as enum ('ACTIVE', 'INACTIVE')")
    _billing_entities()
    _departments()
    _department_history()


def _billing_entities() -> None:
    op.execute("""
        create table billing_entities (
            tenant_id uuid not null,
            id uuid not null,
            parent_id uuid check (parent_id <> id),
            code text not null check (code <> ''),
            legal_name text not null check (legal_name <> ''),
            display_name text not null,
            entity_type entity_type not null,
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            country_code char(2) not null check (country_code ~ '^[A-Z]{2}$'),
            tax_id text not null,
            registration_number text not null,
            tax_rate_bp integer not null check (tax_rate_bp between 0 and 10000),
            address jsonb check (jsonb_typeof(address) = 'object'),
            time_zone text not null check (time_zone <> ''),
            fiscal_year_start_month integer not null check (fiscal_year_start_month between 1 and 12),
            payment_terms_days integer not null check (payment_terms_days between 0 and 365),
            invoice_prefix text not null check (invoice_prefix <> ''),
            consolidation consolidation not null,
            state entity_state not null,
            metadata jsonb not null check (jsonb_typeof(metadata) = 'object'),
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint billing_entities_code_key unique (tenant_id, code),
            foreign key (tenant_id, parent_id) references billing_entities (tenant_id, id)
        )""")
    op.execute("create index billing_entities_parent_idx on billing_entities (tenant_id, parent_id, id)")
    ddl.isolate("billing_entities")
    ddl.audit("billing_entities")


def _departments() -> None:
    # The foreign key of the parent includes the entity, so that a parent of another entity is impossible.
    op.execute("""
        create table departments (
            tenant_id uuid not null,
            id uuid not null,
            entity_id uuid not null,
            parent_id uuid check (parent_id <> id),
            code text not null check (code <> ''),
            name text not null check (name <> ''),
            cost_center text not null,
            gl_code text not null,
            manager_user_id text not null,
            headcount integer not null check (headcount >= 0),
            state department_state not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint departments_code_key unique (tenant_id, entity_id, code),
            constraint departments_entity_key unique (tenant_id, entity_id, id),
            foreign key (tenant_id, entity_id) references billing_entities (tenant_id, id),
            foreign key (tenant_id, entity_id, parent_id) references departments (tenant_id, entity_id, id)
        )""")
    op.execute("create index departments_parent_idx on departments (tenant_id, parent_id, id)")
    op.execute("create index departments_manager_idx on departments (tenant_id, manager_user_id, id)")
    op.execute("create index departments_cost_center_idx on departments (tenant_id, cost_center, id)")
    ddl.isolate("departments")
    ddl.audit("departments")


def _department_history() -> None:
    op.execute("""
        create table department_history (
            tenant_id uuid not null,
            id uuid not null,
            department_id uuid not null,
            parent_id uuid check (parent_id <> department_id),
            effective_from date not null,
            effective_to date check (effective_to > effective_from),
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint department_history_from_key unique (tenant_id, department_id, effective_from),
            foreign key (tenant_id, department_id) references departments (tenant_id, id),
            foreign key (tenant_id, parent_id) references departments (tenant_id, id)
        )""")
    op.execute("""
        create unique index department_history_now_idx on department_history (tenant_id, department_id)
        where effective_to is null""")
    op.execute("create index department_history_parent_idx on department_history (tenant_id, parent_id)")
    ddl.isolate("department_history")
    ddl.audit("department_history")


def downgrade() -> None:
    for table in ("department_history", "departments", "billing_entities"):
        op.execute(f"drop table {table}")
    for kind in ("department_state", "consolidation", "entity_state", "entity_type"):
        op.execute(f"drop type {kind}")
    ddl.drop_foundation()
