"""Use cases of splits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from kit import ids
from kit.db import ReadSession, WriteSession
from services.entities import domain, service, store
from services.entities.domain.allocation_rules import (
    AllocationRuleAction,
    RuleBasis,
    RuleLink,
    RuleScope,
    RuleType,
    SplitTerms,
)
from services.entities.domain.allocations import AllocationDraft, AllocationSource, ConvertedAmount
from services.entities.domain.rates import Conversion
from services.entities.domain.splits import CostToSplit, Share, SplitDraft, UsagePeriod
from services.entities.errors.allocation_rules import AllocationIsShare, CostAlreadySplit
from services.entities.models.allocation_rules import AllocationRuleRow
from services.entities.models.allocations import AllocationRow
from services.entities.models.entities import DepartmentRow
from services.entities.models.splits import CostSplitRow, ShareRecord


async def split(tx: WriteSession, draft: SplitDraft) -> CostSplitRow:
    """Split a cost and allocate each share. An allocation that is split is reversed.

    Raises CostAlreadySplit, InvalidFields, AllocationDepartmentsNotFound, AllocationIsShare, AllocationRulesChain,
    SplitWeightNegative, SplitWeightsAllZero; with a rule AllocationRuleNotFound, AllocationRuleStateForbids,
    AllocationRuleNotEffective, AllocationRuleMismatch; and the errors of allocations and reversals.
    """
    await store.splits.lock(tx, draft.source_ref)
    earlier = await store.splits.find_latest(tx, draft.source_ref)
    if earlier and not earlier.reversal:
        raise CostAlreadySplit(draft.source_ref)
    rule, terms, cost = await _find_terms(tx, draft, draft.cost or await _reverse_allocation(tx, draft))
    path = "" if rule else "terms."
    fields = service.allocation_rules.department_fields(terms.targets, cost.source_department_id, path=path)
    departments = await service.allocation_rules.find_departments(tx, fields)
    await _check_no_chain(tx, rule, terms, cost)
    usage = None
    if terms.basis is RuleBasis.USAGE:
        usage = draft.usage or domain.splits.month_of(cost.allocation_date)
    shares = domain.splits.split_money(cost.amount, await _find_weights(tx, terms, usage))
    converted = await _convert_shares(tx, cost, terms, shares)
    drafts = list(_allocation_drafts(cost, terms, shares, converted, departments))
    results = await service.allocations.allocate(tx, drafts)
    allocations = {result.allocation.department_id: result.allocation.id for result in results}
    row = CostSplitRow(
        source_ref=cost.source_ref,
        source_ref_sequence=earlier.split.source_ref_sequence + 1 if earlier else 1,
        rule_id=rule.id if rule else None,
        rule_version=rule.version if rule else None,
        rule_type=terms.rule_type,
        basis=terms.basis,
        amount=cost.amount.amount,
        currency_code=cost.amount.currency,
        allocation_date=cost.allocation_date,
        category=cost.category,
        gl_code=cost.gl_code,
        description=cost.description,
        source_department_id=cost.source_department_id,
        split_allocation_id=draft.allocation_id,
        usage_start=usage.start if usage else None,
        usage_end=usage.end if usage else None,
        shares=[
            _share_record(departments[target.department_id], share, amount, allocations.get(target.department_id))
            for target, share, amount in zip(terms.targets, shares, converted, strict=True)
        ],
        department_ids=list(departments),
    )
    await store.splits.insert(tx, row)
    return row


async def _reverse_allocation(tx: WriteSession, draft: SplitDraft) -> CostToSplit:
    """Reverse the allocation that is split, and return its cost. Raises AllocationIsShare."""
    if draft.allocation_id is None:
        raise ValueError("the draft has neither a cost nor an allocation")
    row = await store.allocations.get(tx, draft.allocation_id)
    if row.source is AllocationSource.SPLIT:
        raise AllocationIsShare(row.id)
    reversal = await service.reversals.reverse(tx, row.id, reason="Split over departments")
    return CostToSplit(
        amount=-reversal.money,
        allocation_date=row.allocation_date,
        category=row.category,
        gl_code=row.gl_code,
        description=draft.description or row.description,
        source_ref=draft.source_ref,
        source_department_id=row.department_id,
        source_entity_id=row.entity_id,
        counterparty_entity_id=row.counterparty_entity_id,
        contract_id=row.contract_id or await _find_commitment(tx, row),
        booked=replace(reversal.converted, amount=-reversal.entity_money),
    )


async def _find_commitment(tx: ReadSession, row: AllocationRow) -> UUID | None:
    """Return the contract that unlinked usage counts for: its shares are no usage any more, so they need the link."""
    if row.source is not AllocationSource.USAGE:
        return None
    return await service.commitments.find_only(tx, row.entity_id, row.allocation_date)


async def _find_terms(
    tx: WriteSession, draft: SplitDraft, cost: CostToSplit
) -> tuple[AllocationRuleRow | None, SplitTerms, CostToSplit]:
    """Return the rule, if any, its terms or those of the request, and the cost with defaults of the rule."""
    if draft.terms is not None:
        violations = [
            *domain.allocation_rules.terms_violations(draft.terms),
            *domain.allocation_rules.source_violations(cost.source_department_id, draft.terms.targets),
        ]
        service.field_violations.raise_any(each._replace(field=f"terms.{each.field}") for each in violations)
        return None, draft.terms, cost
    if draft.rule_id is None:
        raise ValueError("the draft has neither a rule nor terms")
    rule = await store.allocation_rules.lock_shared(tx, draft.rule_id)
    domain.allocation_rules.advance(rule.id, rule.state, AllocationRuleAction.APPLY)
    domain.allocation_rules.check_applies(
        rule.id,
        rule.scope,
        day=cost.allocation_date,
        category=cost.category,
        source_department_id=cost.source_department_id,
    )
    terms = rule.terms(await store.allocation_rules.get_targets(tx, rule.id))
    source_id, category = cost.source_department_id or rule.source_department_id, cost.category or rule.category
    return rule, terms, replace(cost, source_department_id=source_id, category=category)


async def _check_no_chain(
    tx: WriteSession, rule: AllocationRuleRow | None, terms: SplitTerms, cost: CostToSplit
) -> None:
    """Raise AllocationRulesChain if a target is the source of another rule that applies to such a cost on its date."""
    if cost.source_department_id is None:
        return
    day, targets = cost.allocation_date, tuple(target.department_id for target in terms.targets)
    scope = RuleScope(
        source_department_id=cost.source_department_id,
        category=cost.category,
        effective_from=day,
        effective_to=day + timedelta(days=1),
    )
    others = await store.allocation_rules.find_links(tx, sources=targets, target=None)
    service.allocation_rules.check_no_chain(tx, RuleLink(rule.id if rule else None, scope, targets), others)


async def _find_weights(tx: ReadSession, terms: SplitTerms, usage: UsagePeriod | None) -> Sequence[Decimal]:
    """Return the weight of each target, in their order."""
    department_ids = [target.department_id for target in terms.targets]
    if terms.rule_type is RuleType.FIXED_PERCENT:
        return [Decimal(target.percent_bp) for target in terms.targets]
    if terms.basis is RuleBasis.GIVEN:
        return [target.weight or Decimal(0) for target in terms.targets]
    if terms.basis is RuleBasis.HEADCOUNT:
        headcounts = await store.allocation_rules.find_headcounts(tx, department_ids)
        return [Decimal(headcounts[department_id]) for department_id in department_ids]
    if usage is not None:
        sums = await store.allocation_rules.sum_usage(
            tx,
            department_ids,
            unit=terms.usage_unit,
            category=terms.usage_category,
            start=usage.start,
            end=usage.end,
        )
        return [sums.get(department_id, Decimal(0)) for department_id in department_ids]
    return [Decimal(1)] * len(department_ids)


async def _convert_shares(
    tx: ReadSession, cost: CostToSplit, terms: SplitTerms, shares: Sequence[Share]
) -> Sequence[ConvertedAmount]:
    """Return each share in the currency of its entity."""
    department_ids = [target.department_id for target in terms.targets]
    departments = await store.allocations.find_target_departments(tx, department_ids)
    currencies = [departments[department_id].entity.currency_code for department_id in department_ids]
    conversions = {each: Conversion(cost.amount.currency, each, cost.allocation_date) for each in set(currencies)}
    rates = await service.rates.find(tx, list(conversions.values()))
    return domain.splits.convert_shares(
        cost, [share.amount for share in shares], currencies, dict(zip(conversions, rates, strict=True))
    )


def _allocation_drafts(
    cost: CostToSplit,
    terms: SplitTerms,
    shares: Sequence[Share],
    converted: Sequence[ConvertedAmount],
    departments: Mapping[UUID, DepartmentRow],
) -> Iterator[AllocationDraft]:
    """Yield the allocation of each share that is not zero."""
    for target, share, amount in zip(terms.targets, shares, converted, strict=True):
        department = departments[target.department_id]
        if share.amount.amount:
            yield AllocationDraft(
                entity_id=department.entity_id,
                department_id=department.id,
                category=cost.category,
                source=AllocationSource.SPLIT,
                source_ref=f"{cost.source_ref}/{ids.DEPARTMENT.format(department.id)}",
                amount=share.amount,
                quantity=None,
                unit="",
                gl_code=cost.gl_code,
                counterparty_entity_id=_counterparty(cost, department.entity_id, departments),
                contract_id=cost.contract_id,
                allocation_date=cost.allocation_date,
                description=cost.description,
                converted=amount,
            )


def _counterparty(cost: CostToSplit, entity_id: UUID, departments: Mapping[UUID, DepartmentRow]) -> UUID | None:
    """Return the entity that `entity_id` gets the share from; for its own costs, the counterparty of the cost."""
    source = departments[cost.source_department_id].entity_id if cost.source_department_id else cost.source_entity_id
    return source if source not in {None, entity_id} else cost.counterparty_entity_id


def _share_record(
    department: DepartmentRow, share: Share, converted: ConvertedAmount, allocation_id: UUID | None
) -> ShareRecord:
    return ShareRecord(
        department_id=ids.DEPARTMENT.format(department.id),
        entity_id=ids.ENTITY.format(department.entity_id),
        weight=f"{share.weight.normalize():f}",
        fraction=str(share.fraction),
        amount=share.amount.text(),
        entity_amount=converted.amount.text(),
        entity_currency_code=converted.amount.currency,
        allocation_id=ids.ALLOCATION.format_optional(allocation_id),
    )
