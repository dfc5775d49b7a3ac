"""Create the table of rendered documents of issued invoices and credit notes."""

from alembic import op

from deploy import ddl

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.execute("""
        create table invoice_documents (
            tenant_id uuid not null,
            id uuid not null,
            resource_id uuid not null,
            format text not null check (format in ('PDF', 'XLSX', 'CSV', 'JSON', 'CII', 'UBL', 'ZUGFERD')),
            sha256 bytea not null,
            size integer not null,
            content bytea not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            constraint invoice_documents_once_key unique (tenant_id, resource_id, format),
            constraint invoice_documents_size_check check (size = octet_length(content)),
            constraint invoice_documents_digest_check check (sha256 = pg_catalog.sha256(content))
        )""")
    # Most formats are compressed already.
    op.execute("alter table invoice_documents alter column content set storage external")
    ddl.isolate("invoice_documents")
    ddl.append_only("entities", "invoice_documents")


def downgrade() -> None:
    op.execute("drop table invoice_documents")
