"""AllocationRuleService: allocation rules and splits."""

from billing.entities.v1 import allocation_rule_service_pb2 as pb
from billing.entities.v1.allocation_rule_pb2 import AllocationRule, CostSplit

from contract.values import date_from_text
from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from serving.pages import Pages


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
        page, filters = self._pages.read(request, call), convert.allocation_rules.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.allocation_rules.list_page(tx, page, filters)
            targets = await store.allocation_rules.find_targets(tx, [row.id for row in listed.rows])
        rules = [convert.allocation_rules.to_proto(row, targets[row.id]) for row in listed.rows]
        return pb.ListAllocationRulesResponse(allocation_rules=rules, next_page_token=listed.next_page_token)

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
            rule = await service.allocation_rules.delete(tx, ids.ALLOCATION_RULE.parse(request.id), etag=request.etag)
            return await tx.answer(convert.allocation_rules.to_proto(rule.row, rule.targets))

    async def SplitCost(self, request: pb.SplitCostRequest, call: Call) -> CostSplit:
        draft = convert.splits.draft_from_proto(request)
        async with self._db.write(call, dry_run=request.validate_only) as tx:
            split = await service.splits.split(tx, draft)
            return await tx.answer(convert.splits.to_proto(split, dry_run=request.validate_only))

    async def ReverseCostSplit(self, request: pb.ReverseCostSplitRequest, call: Call) -> CostSplit:
        split_id, day = ids.COST_SPLIT.parse(request.id), date_from_text(request.allocation_date)
        async with self._db.write(call, dry_run=request.validate_only) as tx:
            split, reversal = await service.split_reversals.reverse(tx, split_id, reason=request.reason, day=day)
            return await tx.answer(convert.splits.reversed_to_proto(split, reversal, dry_run=request.validate_only))

    async def ListCostSplits(self, request: pb.ListCostSplitsRequest, call: Call) -> pb.ListCostSplitsResponse:
        page, filters = self._pages.read(request, call), convert.splits.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.splits.list_page(tx, page, filters)
            reversals = await store.splits.find_reversals(tx, [row.id for row in listed.rows])
        splits = [convert.splits.to_proto(row, reversals.get(row.id)) for row in listed.rows]
        return pb.ListCostSplitsResponse(cost_splits=splits, next_page_token=listed.next_page_token)
