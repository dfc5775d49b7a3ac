"""Approval rules and their versions."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from kit import ids
from kit.db import ReadSession, WriteSession, constraint_name, found
from services.approvals.domain.approvals import ApprovalType
from services.approvals.domain.rules import Rule, RuleFilter, RuleState
from services.approvals.errors.rules import ApprovalRuleNotFound, DefaultRuleTaken
from services.approvals.models.rules import RuleRevisionRow, RuleRow, RuleVersionRow
from serving.pages import Page, Slice


async def get(tx: ReadSession, rule_id: UUID) -> RuleRow:
    """Return the rule. Raises ApprovalRuleNotFound."""
    row = await tx.one_or_none(select(RuleRow).where(RuleRow.id == rule_id))
    return found(row, ApprovalRuleNotFound(rule_id))


async def lock(tx: WriteSession, rule_id: UUID) -> RuleRow:
    """Return the rule, locked until the transaction ends. Raises ApprovalRuleNotFound."""
    row = await tx.one_or_none(select(RuleRow).where(RuleRow.id == rule_id).with_for_update())
    return found(row, ApprovalRuleNotFound(rule_id))


async def get_version(tx: ReadSession, rule_id: UUID, number: int) -> RuleVersionRow:
    """Return a version of the rule. Raises ApprovalRuleNotFound."""
    version = RuleVersionRow.rule_id == rule_id, RuleVersionRow.rule_version == number
    row = await tx.one_or_none(select(RuleVersionRow).where(*version))
    return found(row, ApprovalRuleNotFound(rule_id))


async def save(tx: WriteSession, row: RuleRow) -> None:
    """Insert or update a rule, insert its version, and increment the tenant's revision. Raises DefaultRuleTaken."""
    rule_id, rule_version, record = row.id, row.rule_version, row.record
    if row.is_default and row.state is not RuleState.DELETED:
        other = await tx.one_or_none(_default_of(row.request_type).where(RuleRow.id != rule_id))
        if other is not None:
            raise DefaultRuleTaken(other.id, other.name)
    tx.add(row)
    try:
        await tx.flush()
    except IntegrityError as error:
        if constraint_name(error) == "approval_rules_default_key":
            raise DefaultRuleTaken(rule_id, "created concurrently") from error
        raise
    tx.add(
        RuleVersionRow(id=ids.new(), rule_id=rule_id, rule_version=rule_version, record=record, actor=tx.origin.actor)
    )
    await tx.flush()
    first = insert(RuleRevisionRow).values(tenant_id=tx.tenant_id, revision=1)
    await tx.execute(
        first.on_conflict_do_update(index_elements=["tenant_id"], set_={"revision": RuleRevisionRow.revision + 1})
    )


def _default_of(request_type: ApprovalType | None) -> Select[RuleRow]:
    same_type = RuleRow.request_type.is_(None) if request_type is None else RuleRow.request_type == request_type
    return select(RuleRow).where(RuleRow.is_default, RuleRow.state != RuleState.DELETED, same_type)


async def lock_all(tx: WriteSession) -> None:
    """Serialize the changes of a tenant's rules, which are checked against each other, until the transaction ends."""
    await tx.lock("approval_rules")


async def count(tx: ReadSession) -> int:
    """Return the number of rules that are not deleted."""
    return (await tx.rows(select(func.count()).where(RuleRow.state != RuleState.DELETED)))[0][0]


async def get_revision(tx: ReadSession) -> int:
    """Return the number of changes of the tenant's rules so far."""
    rows = await tx.fetch("select revision from approval_rule_revisions where tenant_id = $1", tx.tenant_id)
    return rows[0]["revision"] if rows else 0


async def list_active(tx: ReadSession) -> Sequence[Rule]:
    """Return all active rules, oldest first."""
    rows = await tx.all(select(RuleRow).where(RuleRow.state == RuleState.ACTIVE).order_by(RuleRow.id))
    return [row.rule for row in rows]


async def list_levels(tx: ReadSession, ladder: str, *, except_id: UUID | None) -> Sequence[RuleRow]:
    """Return the levels of a ladder that are not deleted, except the rule `except_id`."""
    query = select(RuleRow).where(RuleRow.ladder == ladder, RuleRow.state != RuleState.DELETED)
    return await tx.all(query if except_id is None else query.where(RuleRow.id != except_id))


async def list_page(tx: ReadSession, page: Page, filters: RuleFilter) -> Slice[RuleRow]:
    """Return a page of the rules that match all filters, oldest first."""
    not_deleted = RuleRow.state.in_((RuleState.ACTIVE, RuleState.PAUSED))
    query = select(RuleRow).where(RuleRow.state == filters.state if filters.state else not_deleted)
    if filters.request_type is not None:
        query = query.where(RuleRow.request_type == filters.request_type)
    if filters.ladder:
        query = query.where(RuleRow.ladder == filters.ladder)
    return await page.fetch(tx, query, RuleRow.id)
