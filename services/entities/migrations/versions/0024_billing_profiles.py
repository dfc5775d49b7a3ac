"""Create billing profiles, the prefixes of their document numbers, and the number series.

A prefix belongs to one profile and one type of document, also after it was replaced if a series has used it. A number
is the prefix, the year and a count, so no number occurs twice in a tenant. A series is never reformatted, set back,
advanced by more than one, or deleted.
"""

from alembic import op

from deploy import ddl

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    _billing_profiles()
    _number_prefixes()
    _number_series()
    _protect_number_series()


def _billing_profiles() -> None:
    op.execute("""
        create table billing_profiles (
            tenant_id uuid not null,
            id uuid not null,
            name text not null check (name <> ''),
            entity_id uuid,
            legal_name text not null check (legal_name <> ''),
            vat_id text not null,
            registration_number text not null,
            address jsonb not null check (address ->> 'country_code' ~ '^[A-Z]{2}$'),
            electronic_address jsonb check (jsonb_typeof(electronic_address) = 'object'),
            email text not null,
            phone text not null,
            contact_name text not null,
            bank_account jsonb check (jsonb_typeof(bank_account) = 'object'),
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            time_zone text not null,
            invoice_prefix text not null,
            statement_prefix text not null,
            credit_note_prefix text not null,
            number_digits integer not null check (number_digits between 3 and 10),
            vat_group_entity_ids uuid[] not null,
            cross_border_treatment text not null check (
                cross_border_treatment in ('STANDARD', 'REVERSE_CHARGE', 'EXEMPT', 'NOT_SUBJECT')
            ),
            default_note text not null,
            payment_instructions text not null,
            is_default boolean not null,
            state text not null check (state in ('ACTIVE', 'INACTIVE')),
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint billing_profiles_default_check check (state = 'ACTIVE' or not is_default),
            foreign key (tenant_id, entity_id) references billing_entities (tenant_id, id)
        )""")
    op.execute("create unique index billing_profiles_default_key on billing_profiles (tenant_id) where is_default")
    op.execute("create index billing_profiles_entity_idx on billing_profiles (tenant_id, entity_id, id)")
    op.execute("create index billing_profiles_state_idx on billing_profiles (tenant_id, state, id)")
    ddl.isolate("billing_profiles")
    ddl.audit("billing_profiles")


def _number_prefixes() -> None:
    op.execute("""
        create table number_prefixes (
            tenant_id uuid not null,
            prefix text not null check (prefix ~ '^[A-Z0-9][A-Z0-9._/-]*$'),
            profile_id uuid not null,
            document_type text not null check (document_type in ('INVOICE', 'STATEMENT', 'CREDIT_NOTE')),
            primary key (tenant_id, prefix),
            constraint number_prefixes_owner_key unique (tenant_id, profile_id, document_type, prefix),
            foreign key (tenant_id, profile_id) references billing_profiles (tenant_id, id)
        )""")
    ddl.isolate("number_prefixes")


def _number_series() -> None:
    op.execute("""
        create table number_series (
            tenant_id uuid not null,
            profile_id uuid not null,
            document_type text not null check (document_type in ('INVOICE', 'STATEMENT', 'CREDIT_NOTE')),
            year integer not null check (year between 2000 and 9999),
            prefix text not null,
            digits integer not null,
            last_number bigint not null check (last_number > 0),
            primary key (tenant_id, profile_id, document_type, year),
            foreign key (tenant_id, profile_id) references billing_profiles (tenant_id, id),
            foreign key (tenant_id, profile_id, document_type, prefix)
                references number_prefixes (tenant_id, profile_id, document_type, prefix)
        )""")
    ddl.isolate("number_series")
    op.execute("revoke delete, truncate on number_series from entities_app")


def _protect_number_series() -> None:
    op.execute("""
        create function protect_number_series() returns trigger language plpgsql as $$
        begin
            if tg_op = 'INSERT' and new.last_number = 1 then
                return new;
            end if;
            if tg_op = 'UPDATE' and new.last_number = old.last_number + 1
                and (new.tenant_id, new.profile_id, new.document_type, new.year, new.prefix, new.digits)
                is not distinct from
                (old.tenant_id, old.profile_id, old.document_type, old.year, old.prefix, old.digits)
            then
                return new;
            end if;
            raise exception 'a number series starts at 1 and only advances by 1'
                using errcode = 'integrity_constraint_violation';
        end $$""")
    op.execute("""
        create trigger number_series_protected before insert or update or delete on number_series
        for each row execute function protect_number_series()""")


def downgrade() -> None:
    for table in ("number_series", "number_prefixes", "billing_profiles"):
        op.execute(f"drop table {table}")
    op.execute("drop function protect_number_series()")
