"""Errors of allocation rules and splits."""

from collections.abc import Mapping, Sequence
from datetime import date
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition, NotFound, Violation
from kit.resources import ResourceNotFound, StateForbids


class AllocationRuleNotFound(ResourceNotFound):
    reason = "ALLOCATION_RULE_NOT_FOUND"
    kind = ids.ALLOCATION_RULE


class AllocationRuleStateForbids(StateForbids):
    reason = "ALLOCATION_RULE_STATE"
    kind = ids.ALLOCATION_RULE


class AllocationRuleNotEffective(FailedPrecondition):
    reason = "ALLOCATION_RULE_NOT_EFFECTIVE"

    def __init__(self, rule_id: UUID, day: date, effective_from: date, effective_to: date | None) -> None:
        text = ids.ALLOCATION_RULE.format(rule_id)
        end = f" until before {effective_to}" if effective_to else ""
        super().__init__(
            f"The allocation rule {text} is effective from {effective_from}{end}; the date of the cost is {day}.",
            allocation_rule_id=text,
            allocation_date=day,
            effective_from_date=effective_from,
            effective_to_date=effective_to,
        )


class AllocationRuleMismatch(FailedPrecondition):
    reason = "ALLOCATION_RULE_MISMATCH"

    def __init__(self, rule_id: UUID, field: str, *, expected: str | UUID, actual: str | UUID) -> None:
        rule = ids.ALLOCATION_RULE.format(rule_id)
        texts = [ids.DEPARTMENT.format(each) if isinstance(each, UUID) else each for each in (expected, actual)]
        super().__init__(
            f"The allocation rule {rule} applies to costs with the {field} {texts[0]}, not {texts[1]}.",
            allocation_rule_id=rule,
            field=field,
            wanted=texts[0],
            given=texts[1],
        )


class AllocationRulesChain(FailedPrecondition):
    reason = "ALLOCATION_RULES_CHAIN"

    def __init__(self, rule_id: UUID | None, path: Sequence[UUID | None]) -> None:
        other = ids.ALLOCATION_RULE.format_optional(rule_id)
        departments = " → ".join(ids.DEPARTMENT.format(id) if id else "…" for id in path)
        super().__init__(
            f"The same cost would be split again by the allocation rule {other}: {departments}. A target of one rule"
            " can't be the source of another.",
            allocation_rule_id=other,
            path=departments,
        )


class AllocationDepartmentsNotFound(NotFound):
    reason = "ALLOCATION_DEPARTMENTS_NOT_FOUND"

    def __init__(self, missing: Mapping[str, UUID]) -> None:
        texts = {field: ids.DEPARTMENT.format(department_id) for field, department_id in missing.items()}
        super().__init__(
            f"There is no department {', '.join(texts.values())}.",
            violations=[
                Violation(field, f"there is no department {text}", "department.known") for field, text in texts.items()
            ],
            department_ids=texts.values(),
        )


class SplitWeightNegative(FailedPrecondition):
    reason = "SPLIT_WEIGHT_NEGATIVE"

    def __init__(self, index: int) -> None:
        super().__init__(f"The weight of targets[{index}] is negative.", target=f"targets[{index}]")


class SplitWeightsAllZero(FailedPrecondition):
    reason = "SPLIT_WEIGHTS_ALL_ZERO"

    def __init__(self) -> None:
        super().__init__("The weights of all targets are zero, so no target can get a share of the cost.")


class CostAlreadySplit(AlreadyExists):
    reason = "COST_ALREADY_SPLIT"

    def __init__(self, source_ref: str) -> None:
        super().__init__(
            f"The cost {source_ref!r} is already split; it can be split again after that split is reversed.",
            source_ref=source_ref,
        )


class CostSplitNotFound(ResourceNotFound):
    reason = "COST_SPLIT_NOT_FOUND"
    kind = ids.COST_SPLIT


class CostSplitAlreadyReversed(FailedPrecondition):
    reason = "COST_SPLIT_ALREADY_REVERSED"

    def __init__(self, split_id: UUID) -> None:
        text = ids.COST_SPLIT.format(split_id)
        super().__init__(f"The cost split {text} is already reversed.", cost_split_id=text)


class AllocationIsShare(FailedPrecondition):
    reason = "ALLOCATION_IS_SHARE"

    def __init__(self, allocation_id: UUID) -> None:
        text = ids.ALLOCATION.format(allocation_id)
        super().__init__(
            f"The allocation {text} is a share of a split cost; shares can't be split again.",
            allocation_id=text,
        )
