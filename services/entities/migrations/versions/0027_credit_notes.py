"""Create the tables of credit notes, refunds, holds of disputes on invoice lines, and payments of invoices."""

from alembic import op

from deploy import ddl

revision = "0027"
down_revision = "0026"

_SETTLEMENT = """
    array['state', 'paid', 'offset_amount', 'credited_balance', 'refunded', 'held', 'void_time', 'void_reason',
    'version', 'update_time']"""
_SETTLEMENT_WITH_PAYMENTS = """
    array['state', 'paid', 'offset_amount', 'credited_balance', 'refunded', 'held', 'exchange_difference',
    'unrecorded_payment_ids', 'void_time', 'void_reason', 'version', 'update_time']"""


def upgrade() -> None:
    op.execute("alter table consolidated_invoices add column exchange_difference numeric(20, 6) not null default 0")
    op.execute("alter table consolidated_invoices add column unrecorded_payment_ids text[] not null default '{}'")
    _check_settled("(offset_amount, credited_balance, refunded, held) = (0, 0, 0, 0)")
    _protect_issued(_SETTLEMENT_WITH_PAYMENTS)
    _credit_notes()
    _credit_note_lines()
    _credit_note_refunds()
    _line_holds()
    _invoice_payments()


def _check_settled(condition: str) -> None:
    """Replace the check of what a document without a number can have; a payment may arrive before its issue."""
    op.execute("""
        -- squawk-ignore ban-drop-constraint
        alter table consolidated_invoices drop constraint consolidated_invoices_settled_check""")
    op.execute(f"""
        alter table consolidated_invoices add constraint consolidated_invoices_settled_check
        check (number <> '' or {condition}) not valid""")


def _protect_issued(settlement: str) -> None:
    """Replace the trigger function that rejects changes of issued documents; `settlement` may change."""
    op.execute(f"""
        create or replace function protect_issued_invoice() returns trigger language plpgsql as $$
        begin
            if old.state <> 'DRAFT' and (
                tg_op = 'DELETE' or new.state = 'DRAFT' or (old.state = 'VOID' and new.state <> 'VOID')
                or to_jsonb(old) - {settlement} is distinct from to_jsonb(new) - {settlement}
            ) then
                raise exception 'invoice % was issued and can''t be changed', old.number
                using errcode = 'insufficient_privilege';
            end if;
            return case tg_op when 'DELETE' then old else new end;
        end $$""")


def _credit_notes() -> None:
    op.execute("""
        create table credit_notes (
            tenant_id uuid not null,
            id uuid not null,
            number text not null check (number <> ''),
            invoice_id uuid not null,
            invoice_number text not null check (invoice_number <> ''),
            entity_id uuid not null,
            billing_profile_id uuid not null,
            dispute_id uuid,
            issuer jsonb not null,
            recipient jsonb not null,
            recipient_name text not null,
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            taxes jsonb not null,
            net numeric(20, 6) not null,
            tax numeric(20, 6) not null,
            total numeric(20, 6) not null check (total = net + tax and total >= 0),
            issuer_currency_code char(3) not null,
            issuer_tax numeric(20, 6),
            offset_amount numeric(20, 6) not null check (offset_amount >= 0),
            refund_amount numeric(20, 6) not null check (refund_amount >= 0),
            credit_amount numeric(20, 6) not null check (credit_amount >= 0),
            line_count integer not null check (line_count > 0),
            reason text not null check (reason <> ''),
            issue_date date not null,
            actor text not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint credit_notes_number_key unique (tenant_id, number),
            constraint credit_notes_split_check check (offset_amount + refund_amount + credit_amount = total),
            foreign key (tenant_id, invoice_id) references consolidated_invoices (tenant_id, id),
            foreign key (tenant_id, entity_id) references billing_entities (tenant_id, id),
            foreign key (tenant_id, billing_profile_id) references billing_profiles (tenant_id, id)
        )""")
    op.execute("create index credit_notes_invoice_idx on credit_notes (tenant_id, invoice_id, id)")
    op.execute("create index credit_notes_entity_idx on credit_notes (tenant_id, entity_id, id)")
    op.execute("create index credit_notes_profile_idx on credit_notes (tenant_id, billing_profile_id)")
    op.execute("create index credit_notes_issue_idx on credit_notes (tenant_id, issue_date, id)")
    ddl.isolate("credit_notes")
    ddl.audit("credit_notes")
    ddl.append_only("entities", "credit_notes")


def _credit_note_lines() -> None:
    # Inserted before the credit note, whose number is taken last.
    op.execute("""
        create table credit_note_lines (
            tenant_id uuid not null,
            id uuid not null,
            credit_note_id uuid not null,
            line_id uuid not null,
            amount numeric(20, 6) not null check (amount <> 0),
            create_time timestamptz not null,
            primary key (tenant_id, id),
            unique (tenant_id, credit_note_id, line_id),
            foreign key (tenant_id, credit_note_id) references credit_notes (tenant_id, id)
            deferrable initially deferred,
            foreign key (tenant_id, line_id) references invoice_lines (tenant_id, id)
        )""")
    op.execute("create index credit_note_lines_note_idx on credit_note_lines (tenant_id, credit_note_id, id)")
    op.execute("create index credit_note_lines_line_idx on credit_note_lines (tenant_id, line_id)")
    ddl.isolate("credit_note_lines")
    ddl.append_only("entities", "credit_note_lines")


def _credit_note_refunds() -> None:
    op.execute("""
        create table credit_note_refunds (
            tenant_id uuid not null,
            id uuid not null,
            credit_note_id uuid not null,
            invoice_id uuid not null,
            dispute_id uuid,
            amount numeric(20, 6) not null check (amount > 0),
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            state text not null check (state in ('REQUESTED', 'COMPLETED', 'FAILED')),
            completed_amount numeric(20, 6) check (completed_amount >= 0),
            refund_date date,
            reference text not null,
            problem text not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint credit_note_refunds_completed_check check (
                (state = 'COMPLETED') = (completed_amount is not null)
            ),
            foreign key (tenant_id, credit_note_id) references credit_notes (tenant_id, id),
            foreign key (tenant_id, invoice_id) references consolidated_invoices (tenant_id, id)
        )""")
    op.execute("create index credit_note_refunds_note_idx on credit_note_refunds (tenant_id, credit_note_id, id)")
    op.execute("create index credit_note_refunds_invoice_idx on credit_note_refunds (tenant_id, invoice_id)")
    ddl.isolate("credit_note_refunds")
    ddl.audit("credit_note_refunds")


def _line_holds() -> None:
    op.execute("""
        create table line_holds (
            tenant_id uuid not null,
            id uuid not null,
            invoice_id uuid not null,
            line_id uuid not null,
            dispute_id uuid not null,
            kind text not null check (kind in ('HELD', 'RELEASED', 'CREDITED')),
            amount numeric(20, 6) not null check (amount <> 0),
            invoice_held numeric(20, 6) not null check (invoice_held >= 0),
            create_time timestamptz not null,
            primary key (tenant_id, id),
            foreign key (tenant_id, invoice_id) references consolidated_invoices (tenant_id, id),
            foreign key (tenant_id, line_id) references invoice_lines (tenant_id, id)
        )""")
    op.execute("create index line_holds_dispute_idx on line_holds (tenant_id, invoice_id, dispute_id)")
    op.execute("create index line_holds_line_idx on line_holds (tenant_id, line_id)")
    ddl.isolate("line_holds")
    ddl.append_only("entities", "line_holds")


def _invoice_payments() -> None:
    op.execute("""
        create table invoice_payments (
            tenant_id uuid not null,
            id uuid not null,
            payment_id text not null check (payment_id <> ''),
            invoice_id uuid not null,
            amount numeric(20, 6) not null check (amount > 0),
            currency_code char(3) not null check (currency_code ~ '^[A-Z]{3}$'),
            converted_amount numeric(20, 6) check (converted_amount > 0),
            applied_amount numeric(20, 6) not null check (applied_amount >= 0),
            rate numeric check (rate > 0),
            rate_date date,
            exchange_difference numeric(20, 6) not null,
            payment_date date not null,
            reference text not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint invoice_payments_payment_key unique (tenant_id, payment_id),
            constraint invoice_payments_converted_check check ((rate is null) = (rate_date is null)),
            foreign key (tenant_id, invoice_id) references consolidated_invoices (tenant_id, id)
        )""")
    op.execute("create index invoice_payments_invoice_idx on invoice_payments (tenant_id, invoice_id, id)")
    ddl.isolate("invoice_payments")
    ddl.append_only("entities", "invoice_payments")


def downgrade() -> None:
    for table in ("invoice_payments", "line_holds", "credit_note_refunds", "credit_note_lines", "credit_notes"):
        op.execute(f"drop table {table}")
    _protect_issued(_SETTLEMENT)
    _check_settled("(paid, offset_amount, credited_balance, refunded, held) = (0, 0, 0, 0, 0)")
    op.execute("alter table consolidated_invoices drop column unrecorded_payment_ids")
    op.execute("alter table consolidated_invoices drop column exchange_difference")
