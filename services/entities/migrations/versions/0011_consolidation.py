"""Store `consolidation` as text with a CHECK, like all other enums of this schema.

A service of an earlier version compares with the enum type, which is gone: stop it before this runs.
"""

from alembic import op

revision = "0011"
down_revision = "0010"

_IGNORED = "changing-column-type, ban-drop-type, constraint-missing-not-valid"


def upgrade() -> None:
    op.execute(
        f"-- squawk-ignore {_IGNORED}\n"
        "alter table billing_entities alter consolidation type text using consolidation::text,"
        " add constraint billing_entities_consolidation_check check (consolidation in ('INCLUDE', 'SEPARATE'))"
    )
    op.execute(f"-- squawk-ignore {_IGNORED}\ndrop type consolidation")


def downgrade() -> None:
    op.execute("create type consolidation as enum ('INCLUDE', 'SEPARATE')")
    op.execute(
        f"-- squawk-ignore {_IGNORED}\n"
        "alter table billing_entities drop constraint billing_entities_consolidation_check,"
        " alter consolidation type consolidation using consolidation::consolidation"
    )
