"""Approval requests, their history, and their pending approver slots.

Enum columns are text with a CHECK: under row-level security, an index is not used for a native enum type.
"""

from alembic import op

from deploy import ddl

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _approval_requests()
    _approval_actions()
    _approval_seats()


def _approval_requests() -> None:
    op.execute("""
        create table approval_requests (
            tenant_id uuid not null,
            id uuid not null,
            request_type text not null check (
                request_type in (
                    'PURCHASE', 'BUDGET_INCREASE', 'BUDGET_OVERSPEND', 'CONTRACT', 'AMENDMENT', 'INVOICE',
                    'DISPUTE_RESOLUTION', 'OTHER'
                )
            ),
            title text not null check (title <> ''),
            description text not null,
            requester text not null check (requester <> ''),
            entity_id uuid not null,
            department_id uuid,
            budget_id uuid,
            category text not null,
            amount numeric(20, 6) check (amount > 0),
            currency_code char(3) check (currency_code ~ '^[A-Z]{3}$'),
            entity_path uuid[] not null check (entity_path[1] = entity_id),
            department_path uuid[] not null,
            attributes jsonb not null check (jsonb_typeof(attributes) = 'object'),
            subject_type text not null,
            subject_id text not null,
            state text not null check (
                state in (
                    'OPENING', 'PENDING', 'CHANGES_REQUESTED', 'APPROVED', 'REJECTED', 'CANCELLED', 'EXPIRED'
                )
            ),
            round integer not null check (round > 0),
            panel jsonb not null check (jsonb_typeof(panel) = 'object'),
            hold_id uuid,
            funds text not null check (
                funds in ('NONE', 'HELD', 'COMMITTED', 'RELEASED', 'RAISED', 'FAILED')
            ),
            funds_problem text not null,
            due_time timestamptz,
            decided_by text not null,
            decision_comment text not null,
            end_time timestamptz,
            opening_key text not null,
            opening_digest bytea not null,
            version integer not null,
            create_time timestamptz not null,
            update_time timestamptz not null,
            primary key (tenant_id, id),
            constraint approval_requests_money_check check ((amount is null) = (currency_code is null)),
            constraint approval_requests_held_check check (funds <> 'HELD' or hold_id is not null),
            constraint approval_requests_ended_check check (
                (state in ('APPROVED', 'REJECTED', 'CANCELLED', 'EXPIRED')) = (end_time is not null)
            ),
            constraint approval_requests_subject_check check ((subject_type = '') = (subject_id = ''))
        )""")
    for name, columns in {
        "state": "state", "requester": "requester", "entity": "entity_id", "department": "department_id",
        "budget": "budget_id", "type": "request_type",
    }.items():  # fmt: skip
        op.execute(f"create index approval_requests_{name}_idx on approval_requests (tenant_id, {columns}, id)")
    op.execute("create index approval_requests_amount_idx on approval_requests (tenant_id, currency_code, amount)")
    op.execute(
        "create index approval_requests_due_idx on approval_requests (tenant_id, due_time) where due_time is not null"
    )
    op.execute("create index approval_requests_made_idx on approval_requests (tenant_id, create_time)")
    op.execute("create index approval_requests_about_idx on approval_requests (tenant_id, subject_id, id)")
    # Guarantees that a subject has one open request, also under concurrency.
    op.execute("""
        create unique index approval_requests_subject_key on approval_requests (tenant_id, subject_type, subject_id)
        where subject_id <> '' and state in ('OPENING', 'PENDING', 'CHANGES_REQUESTED')""")
    op.execute("""
        create unique index approval_requests_opening_key on approval_requests (tenant_id, requester, opening_key)
        where opening_key <> ''""")
    ddl.isolate("approval_requests")
    ddl.audit("approval_requests")


def _approval_actions() -> None:
    op.execute("""
        create table approval_actions (
            tenant_id uuid not null,
            id uuid not null,
            approval_id uuid not null,
            round integer not null,
            step integer not null check (step >= 0),
            action text not null check (
                action in (
                    'APPROVE', 'REJECT', 'REQUEST_CHANGES', 'COMMENT', 'DELEGATE', 'ESCALATE', 'ADD_APPROVER',
                    'REQUEST', 'RESUBMIT', 'CANCEL', 'REMIND', 'EXPIRE', 'AUTO_APPROVE', 'REPLACE_APPROVER'
                )
            ),
            actor text not null check (actor <> ''),
            on_behalf_of text not null,
            target text not null,
            comment text not null,
            create_time timestamptz not null,
            primary key (tenant_id, id),
            foreign key (tenant_id, approval_id) references approval_requests (tenant_id, id)
        )""")
    op.execute("create index approval_actions_approval_idx on approval_actions (tenant_id, approval_id, id)")
    ddl.isolate("approval_actions")
    ddl.append_only("approvals", "approval_actions")


def _approval_seats() -> None:
    op.execute("""
        create table approval_seats (
            tenant_id uuid not null,
            approval_id uuid not null,
            step integer not null,
            user_id text not null,
            role text not null,
            primary key (tenant_id, approval_id, step, user_id, role),
            constraint approval_seats_one_check check ((user_id = '') <> (role = '')),
            foreign key (tenant_id, approval_id) references approval_requests (tenant_id, id) on delete cascade
        )""")
    op.execute("create index approval_seats_user_idx on approval_seats (tenant_id, user_id, approval_id)")
    op.execute("create index approval_seats_role_idx on approval_seats (tenant_id, role, approval_id)")
    ddl.isolate("approval_seats")


def downgrade() -> None:
    for table in ("approval_seats", "approval_actions", "approval_requests"):
        op.execute(f"drop table {table}")
