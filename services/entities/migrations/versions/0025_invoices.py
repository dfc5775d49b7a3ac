"""Create the tables of consolidated invoices, and the queue of allocations that no invoice has taken yet.

A draft takes allocations from the queue with DELETE, so each is billed once, and keeps their ids in arrays: a row and
an index entry for each would take most of the time of a draft with 100,000 allocations.
"""

from alembic import op

from deploy import ddl

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    _consolidated_invoices()
    _invoice_lines()
    _invoice_charges()
    _invoice_eliminations()
    _invoice_fees()
    _protect_issued()
    _unbilled_allocations()


def _consolidated_invoices() -> None:
    op.execute("""
        create table consolidated_invoices (
            tenant_id uuid not null,
            id uuid not null,
            type text not null check (type in ('INVOICE', 'STATEMENT')),
            number text not null,
            entity_id uuid not null,
            billing_profile_id uuid not null,
            entity_ids uuid[] not null check (cardinality(entity_ids) > 0),
            state text not null check (state in ('DRAFT', 'ISSUED', 'PARTIALLY_PAID', 'PAID', 'VOID')),
            period_start date not null,
            period_end date not null check (period_end > period_start),
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            rate_policy text not null check (rate_policy in ('PERIOD_END', 'TRANSACTION_DATE', 'PERIOD_AVERAGE')),
            issuer jsonb not null,
            recipient jsonb not null,
            recipient_name text not null,
            purchase_order_numbers text[] not null,
            contract_numbers text[] not null,
            payment_terms_days integer not null,
            taxes jsonb not null,
            rates jsonb not null,
            problems jsonb not null,
            net numeric(20, 6) not null,
            tax numeric(20, 6) not null,
            total numeric(20, 6) not null check (total = net + tax),
            issuer_currency_code char(3) not null,
            issuer_tax numeric(20, 6),
            line_count integer not null check (line_count >= 0),
            note text not null,
            require_einvoice boolean not null,
            paid numeric(20, 6) not null default 0 check (paid >= 0),
            offset_amount numeric(20, 6) not null default 0 check (offset_amount >= 0),
            credited_balance numeric(20, 6) not null default 0 check (credited_balance >= 0),
            refunded numeric(20, 6) not null default 0 check (refunded between 0 and paid),
            held numeric(20, 6) not null default 0 check (held >= 0),
            issue_date date,
            due_date date,
            issue_time timestamptz,
            void_time timestamptz,
            void_reason text not null default '',
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint consolidated_invoices_issued_check check (
                case state when 'DRAFT' then number = '' when 'VOID' then true else number <> '' end
                and (number = '') = (issue_time is null)
                and (number = '') = (issue_date is null)
                and (number = '') = (due_date is null)
            ),
            constraint consolidated_invoices_void_check check ((state = 'VOID') = (void_time is not null)),
            constraint consolidated_invoices_settled_check check (
                number <> '' or (paid, offset_amount, credited_balance, refunded, held) = (0, 0, 0, 0, 0)
            ),
            foreign key (tenant_id, entity_id) references billing_entities (tenant_id, id),
            foreign key (tenant_id, billing_profile_id) references billing_profiles (tenant_id, id)
        )""")
    op.execute("""
        create unique index consolidated_invoices_number_key on consolidated_invoices (tenant_id, number)
        where number <> ''""")
    # The service refuses all overlapping periods; this index only makes equal ones impossible.
    op.execute("""
        create unique index consolidated_invoices_period_key
        on consolidated_invoices (tenant_id, entity_id, period_start) where state <> 'VOID'""")
    op.execute("create index consolidated_invoices_entity_idx on consolidated_invoices (tenant_id, entity_id, id)")
    op.execute("create index consolidated_invoices_state_idx on consolidated_invoices (tenant_id, state, id)")
    op.execute(
        "create index consolidated_invoices_profile_idx on consolidated_invoices (tenant_id, billing_profile_id)"
    )
    op.execute("""
        create index consolidated_invoices_due_idx on consolidated_invoices (tenant_id, due_date, id)
        where state in ('ISSUED', 'PARTIALLY_PAID')""")
    ddl.isolate("consolidated_invoices")
    ddl.audit("consolidated_invoices")


def _invoice_lines() -> None:
    op.execute("""
        create table invoice_lines (
            tenant_id uuid not null,
            id uuid not null,
            invoice_id uuid not null,
            number integer not null check (number > 0),
            kind text not null check (kind in ('ALLOCATIONS', 'CONTRACT_FEE', 'ROUNDING', 'EXCHANGE_DIFFERENCE')),
            entity_id uuid,
            entity_code text not null,
            entity_name text not null,
            department_id uuid,
            department_name text not null,
            gl_code text not null,
            contract_id uuid,
            contract_number text not null,
            description text not null,
            original_amount numeric(20, 6),
            original_currency_code char(3),
            rate numeric,
            amount numeric(20, 6) not null,
            tax_treatment text not null check (
                tax_treatment in ('STANDARD', 'REVERSE_CHARGE', 'EXEMPT', 'NOT_SUBJECT')
            ),
            tax_rate_bp integer not null check (tax_rate_bp between 0 and 10000),
            first_date date,
            last_date date,
            charge_ids uuid[] not null,
            item_count integer not null,
            credited numeric(20, 6) not null default 0,
            held numeric(20, 6) not null default 0,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            unique (tenant_id, invoice_id, number),
            constraint invoice_lines_entity_check check (
                (kind in ('ALLOCATIONS', 'CONTRACT_FEE')) = (entity_id is not null)
                and (entity_id is null) = (original_amount is null)
                and (original_amount is null) = (original_currency_code is null)
            ),
            constraint invoice_lines_tax_check check (tax_treatment = 'STANDARD' or tax_rate_bp = 0),
            constraint invoice_lines_credited_check check (
                abs(credited + held) <= abs(amount) and sign(credited) in (0, sign(amount))
                and sign(held) in (0, sign(amount))
            ),
            foreign key (tenant_id, invoice_id) references consolidated_invoices (tenant_id, id)
        )""")
    op.execute("create index invoice_lines_entity_idx on invoice_lines (tenant_id, entity_id, id)")
    ddl.isolate("invoice_lines")


def _invoice_charges() -> None:
    # Inserted before the invoice, whose totals are the sum of its charges.
    op.execute("""
        create table invoice_charges (
            tenant_id uuid not null,
            id uuid not null,
            invoice_id uuid not null,
            entity_id uuid not null,
            department_id uuid,
            gl_code text not null,
            supplier_id uuid,
            day date,
            original_amount numeric not null,
            original_currency_code char(3) not null,
            booked_amount numeric not null,
            booked_currency_code char(3) not null,
            first_date date not null,
            last_date date not null,
            allocation_ids uuid[] not null check (cardinality(allocation_ids) > 0),
            primary key (tenant_id, id),
            foreign key (tenant_id, invoice_id) references consolidated_invoices (tenant_id, id)
            deferrable initially deferred
        )""")
    op.execute("create index invoice_charges_invoice_idx on invoice_charges (tenant_id, invoice_id)")
    ddl.isolate("invoice_charges")


def _invoice_eliminations() -> None:
    op.execute("""
        create table invoice_eliminations (
            tenant_id uuid not null,
            id uuid not null,
            invoice_id uuid not null,
            number integer not null check (number > 0),
            supplier_entity_id uuid not null,
            supplier_code text not null,
            supplier_name text not null,
            buyer_entity_id uuid not null,
            buyer_code text not null,
            buyer_name text not null,
            original_amount numeric(20, 6) not null,
            original_currency_code char(3) not null,
            supplier_amount numeric(20, 6) not null,
            booked_amount numeric(20, 6) not null,
            booked_currency_code char(3) not null,
            buyer_amount numeric(20, 6) not null,
            charge_ids uuid[] not null,
            allocation_count integer not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            unique (tenant_id, invoice_id, number),
            foreign key (tenant_id, invoice_id) references consolidated_invoices (tenant_id, id)
        )""")
    ddl.isolate("invoice_eliminations")


def _invoice_fees() -> None:
    op.execute("""
        create table invoice_fees (
            tenant_id uuid not null,
            id uuid not null,
            invoice_id uuid not null,
            line_id uuid not null,
            contract_id uuid not null,
            due_date date not null,
            amount numeric(20, 6) not null check (amount <> 0),
            currency_code char(3) not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            unique (tenant_id, invoice_id, contract_id, due_date),
            foreign key (tenant_id, invoice_id) references consolidated_invoices (tenant_id, id),
            foreign key (tenant_id, contract_id) references billing_contracts (tenant_id, id)
        )""")
    op.execute("create index invoice_fees_contract_idx on invoice_fees (tenant_id, contract_id, due_date)")
    op.execute("create index invoice_fees_line_idx on invoice_fees (tenant_id, line_id)")
    ddl.isolate("invoice_fees")


_SETTLEMENT = """
    array['state', 'paid', 'offset_amount', 'credited_balance', 'refunded', 'held', 'void_time', 'void_reason',
    'version', 'update_time']"""


def _protect_issued() -> None:
    """Reject every change of a document that is no longer a draft, except for what is settled or held."""
    op.execute(f"""
        create function protect_issued_invoice() returns trigger language plpgsql as $$
        begin
            if old.state <> 'DRAFT' and (
                tg_op = 'DELETE' or new.state = 'DRAFT' or (old.state = 'VOID' and new.state <> 'VOID')
                or to_jsonb(old) - {_SETTLEMENT} is distinct from to_jsonb(new) - {_SETTLEMENT}
            ) then
                raise exception 'invoice % was issued and can''t be changed', old.number
                using errcode = 'insufficient_privilege';
            end if;
            return case tg_op when 'DELETE' then old else new end;
        end $$""")
    op.execute("""
        create trigger consolidated_invoices_issued before update or delete on consolidated_invoices
        for each row execute function protect_issued_invoice()""")
    # Statement triggers, since a draft may have thousands of lines.
    op.execute("""
        create function protect_issued_lines() returns trigger language plpgsql as $$
        begin
            if exists (
                select from changed join entities.consolidated_invoices invoice
                on invoice.tenant_id = changed.tenant_id and invoice.id = changed.invoice_id
                where invoice.state <> 'DRAFT'
            ) then
                raise exception 'the invoice was issued and can''t be changed' using errcode = 'insufficient_privilege';
            end if;
            return null;
        end $$""")
    for table in ("invoice_lines", "invoice_charges", "invoice_eliminations", "invoice_fees"):
        for event, rows in (("insert", "new"), ("delete", "old")):
            op.execute(f"""
                create trigger {table}_issued_{event} after {event} on {table}
                referencing {rows} table as changed for each statement execute function protect_issued_lines()""")
    op.execute("""
        create function protect_line() returns trigger language plpgsql as $$
        begin
            if to_jsonb(old) - array['credited', 'held'] is distinct from to_jsonb(new) - array['credited', 'held'] then
                raise exception 'lines are never changed' using errcode = 'insufficient_privilege';
            end if;
            return new;
        end $$""")
    op.execute("""
        create trigger invoice_lines_issued_update before update on invoice_lines
        for each row execute function protect_line()""")
    for table in ("invoice_charges", "invoice_eliminations", "invoice_fees"):
        op.execute(f"""
            create trigger {table}_issued_update before update on {table}
            for each row execute function refuse_change()""")


_COPIED = """
    tenant_id, entity_id, allocation_date, allocation_id, department_id, gl_code, counterparty_entity_id, amount,
    currency_code, entity_amount, entity_currency_code"""
_COPY = f"""
    insert into entities.unbilled_allocations ({_COPIED})
    select tenant_id, entity_id, allocation_date, id, department_id, gl_code, counterparty_entity_id, amount,
        currency_code, entity_amount, entity_currency_code"""


def _unbilled_allocations() -> None:
    # With all that charges consist of, since joining 100,000 allocations takes longer than summing them.
    op.execute("""
        create table unbilled_allocations (
            tenant_id uuid not null,
            entity_id uuid not null,
            allocation_date date not null,
            allocation_id uuid not null,
            department_id uuid,
            gl_code text not null,
            counterparty_entity_id uuid,
            amount numeric(20, 6) not null,
            currency_code char(3) not null,
            entity_amount numeric(20, 6) not null,
            entity_currency_code char(3) not null,
            primary key (tenant_id, entity_id, allocation_date, allocation_id)
        )""")
    ddl.isolate("unbilled_allocations")
    with ddl.of_all_tenants("cost_allocations"), ddl.of_all_tenants("unbilled_allocations"):
        op.execute(f"{_COPY} from cost_allocations")
    op.execute(f"""
        create function note_unbilled_allocations() returns trigger language plpgsql as $$
        begin
            {_COPY} from posted;
            return null;
        end $$""")
    op.execute("""
        create trigger cost_allocations_unbilled after insert on cost_allocations
        referencing new table as posted for each statement execute function note_unbilled_allocations()""")


def downgrade() -> None:
    op.execute("drop trigger cost_allocations_unbilled on cost_allocations")
    op.execute("drop function note_unbilled_allocations()")
    op.execute("drop table unbilled_allocations")
    for table in ("invoice_fees", "invoice_eliminations", "invoice_charges", "invoice_lines", "consolidated_invoices"):
        op.execute(f"drop table {table}")
    for function in ("protect_issued_invoice", "protect_issued_lines", "protect_line"):
        op.execute(f"drop function {function}()")
