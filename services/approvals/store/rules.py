"""Rules of approval and their versions."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from kit import ids
from kit.db import ReadSession, WriteSession, constraint_name
from services.approvals.domain.lives import ApprovalType, RuleState
from services.approvals.domain.rules import Rule
from services.approvals.errors import ApprovalRuleNotFound, DefaultRuleTaken
from services.approvals.models.rules import RuleRevisionRow, RuleRow, RuleVersionRow
from serving.pages import Page, Slice


async def get_rule(tx: ReadSession, rule_id: UUID) -> RuleRow:
    """The rule; raises ApprovalRuleNotFound."""
    return _found(await tx.one_or_none(select(RuleRow).where(RuleRow.id == rule_id)), rule_id)


async def lock_rule(tx: WriteSession, rule_id: UUID) -> RuleRow:
    """The rule, locked until the transaction ends; raises ApprovalRuleNotFound."""
    return _found(await tx.one_or_none(select(RuleRow).where(RuleRow.id == rule_id).with_for_update()), rule_id)


def _found(row: RuleRow | None, rule_id: UUID) -> RuleRow:
    if row is None:
        raise ApprovalRuleNotFound(rule_id)
    return row


async def find_version(tx: ReadSession, rule_id: UUID, number: int) -> RuleVersionRow | None:
    """The rule as it was in one of its versions."""
    wanted = RuleVersionRow.rule_id == rule_id, RuleVersionRow.rule_version == number
    return await tx.one_or_none(select(RuleVersionRow).where(*wanted))


async def save_rule(tx: WriteSession, row: RuleRow, record: dict[str, Any]) -> None:
    """Write a new or changed rule with its version, and tell those who remember rules; raises DefaultRuleTaken."""
    request_type, is_default, rule_id = row.request_type, row.is_default, row.id
    if is_default and row.state is not RuleState.DELETED:
        other = await tx.one_or_none(_default_of(request_type).where(RuleRow.id != rule_id))
        if other is not None:
            raise DefaultRuleTaken(other.id, other.name)
    tx.add(row)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "approval_rules_default_key":
            raise DefaultRuleTaken(rule_id, "made at this moment") from error
        raise
    version = RuleVersionRow(
        id=ids.new(), rule_id=rule_id, rule_version=row.rule_version, record=record, actor=tx.origin.actor
    )
    tx.add(version)
    await tx.flush()
    counted = insert(RuleRevisionRow).values(tenant_id=tx.tenant_id, revision=1)
    await tx.execute(
        counted.on_conflict_do_update(index_elements=["tenant_id"], set_={"revision": RuleRevisionRow.revision + 1})
    )


def _default_of(request_type: ApprovalType | None) -> Select[RuleRow]:
    same = RuleRow.request_type.is_(None) if request_type is None else RuleRow.request_type == request_type
    return select(RuleRow).where(RuleRow.is_default, RuleRow.state != RuleState.DELETED, same)


async def lock_rules(tx: WriteSession) -> None:
    """Let the changes of a tenant's rules take turns."""
    name = f"approval_rules {tx.tenant_id}"
    await tx.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


async def count_rules(tx: ReadSession) -> int:
    """How many rules are not deleted."""
    return (await tx.rows(select(func.count()).where(RuleRow.state != RuleState.DELETED)))[0][0]


async def get_revision(tx: ReadSession) -> int:
    """Counts the changes of the tenant's rules; 0 where it never had one."""
    found = await tx.fetch("select revision from approval_rule_revisions where tenant_id = $1", tx.tenant_id)
    return found[0]["revision"] if found else 0


async def find_active(tx: ReadSession) -> Sequence[Rule]:
    """All rules that are taken, oldest first."""
    rows = await tx.all(select(RuleRow).where(RuleRow.state == RuleState.ACTIVE).order_by(RuleRow.id))
    return [row.rule for row in rows]


async def find_levels(tx: ReadSession, ladder: str, *, but: UUID | None) -> Sequence[RuleRow]:
    """The levels of a ladder that are not deleted, without one."""
    wanted = select(RuleRow).where(RuleRow.ladder == ladder, RuleRow.state != RuleState.DELETED)
    return await tx.all(wanted if but is None else wanted.where(RuleRow.id != but))


async def list_rules(
    tx: ReadSession, page: Page, *, state: RuleState | None, request_type: ApprovalType | None, ladder: str
) -> Slice[RuleRow]:
    """One page of the rules that fit all filters given, oldest first; the deleted ones only when asked for."""
    kept = (RuleState.ACTIVE, RuleState.PAUSED)
    wanted = select(RuleRow).where(RuleRow.state == state if state else RuleRow.state.in_(kept))
    if request_type is not None:
        wanted = wanted.where(RuleRow.request_type == request_type)
    if ladder:
        wanted = wanted.where(RuleRow.ladder == ladder)
    return page.slice(await tx.all(page.narrow(wanted, RuleRow.id)))
