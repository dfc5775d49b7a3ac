"""The gRPC side of allocation rules and splits."""

from contextlib import suppress

from billing.entities.v1 import allocation_rule_service_pb2 as pb
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, CostSplit

from contract.values import date_from_text
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from services.entities.domain.allocation_rules import RuleState, RuleType
from serving.pages import Pages


class _OnlyTried(Exception):
    """Takes back what was tried."""


class AllocationRuleServicer:
    """billing.entities.v1.AllocationRuleService."""

    service = pb.DESCRIPTOR.services_by_name["AllocationRuleService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateAllocationRule(self, request: pb.CreateAllocationRuleRequest, call: Call) -> AllocationRule:
        draft = convert.allocation_rules.draft_from_proto(request)
        async with self._db.write(call) as tx:
            rule = await service.allocation_rules.create(tx, draft)
            return await tx.answer(convert.allocation_rules.to_proto(rule.row, rule.targets))

    async def ListAllocationRules(
        self, request: pb.ListAllocationRulesRequest, call: Call
    ) -> pb.ListAllocationRulesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.allocation_rules.list_page(
                tx,
                page,
                state=RuleState(AllocationRule.State.Name(request.state)) if request.state else None,
                rule_type=RuleType(AllocationRule.Type.Name(request.rule_type)) if request.rule_type else None,
                target_department_id=ids.DEPARTMENT.parse_optional(
                    request.target_department_id, "target_department_id"
                ),
                source_department_id=ids.DEPARTMENT.parse_optional(
                    request.source_department_id, "source_department_id"
                ),
                category=request.category,
                effective_on=date_from_text(request.effective_on_date),
            )
            targets = await store.allocation_rules.find_targets(tx, [row.id for row in found.rows])
        rules = [convert.allocation_rules.to_proto(row, targets[row.id]) for row in found.rows]
        return pb.ListAllocationRulesResponse(allocation_rules=rules, next_page_token=found.next_page_token)

    async def GetAllocationRule(self, request: pb.GetAllocationRuleRequest, call: Call) -> AllocationRule:
        async with self._db.read(call) as tx:
            rule = await service.allocation_rules.get(tx, ids.ALLOCATION_RULE.parse(request.id))
        return convert.allocation_rules.to_proto(rule.row, rule.targets)

    async def UpdateAllocationRule(self, request: pb.UpdateAllocationRuleRequest, call: Call) -> AllocationRule:
        changes = convert.allocation_rules.changes_from_proto(request)
        async with self._db.write(call) as tx:
            rule_id = ids.ALLOCATION_RULE.parse(request.id)
            rule = await service.allocation_rules.update(tx, rule_id, changes, etag=request.etag)
            return await tx.answer(convert.allocation_rules.to_proto(rule.row, rule.targets))

    async def DeleteAllocationRule(self, request: pb.DeleteAllocationRuleRequest, call: Call) -> AllocationRule:
        async with self._db.write(call) as tx:
            rule_id = ids.ALLOCATION_RULE.parse(request.id)
            rule = await service.allocation_rules.delete(tx, rule_id, etag=request.etag)
            return await tx.answer(convert.allocation_rules.to_proto(rule.row, rule.targets))

    async def SplitCost(self, request: pb.SplitCostRequest, call: Call) -> CostSplit:
        ask = convert.allocation_rules.split_ask_from_proto(request)
        with suppress(_OnlyTried):
            async with self._db.write(call) as tx:
                reply = convert.allocation_rules.cost_split_to_proto(
                    await service.splits.split(tx, ask), tried=request.validate_only
                )
                if request.validate_only:
                    raise _OnlyTried
                return await tx.answer(reply)
        return reply

    async def ListCostSplits(self, request: pb.ListCostSplitsRequest, call: Call) -> pb.ListCostSplitsResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.allocation_rules.list_splits(
                tx,
                page,
                rule_id=ids.ALLOCATION_RULE.parse_optional(request.rule_id, "rule_id"),
                source_ref=request.source_ref,
                start=date_from_text(request.start_date),
                end=date_from_text(request.end_date),
            )
        return pb.ListCostSplitsResponse(
            cost_splits=map(convert.allocation_rules.cost_split_to_proto, found.rows),
            next_page_token=found.next_page_token,
        )
