"""RPCs of approval rules."""

from datetime import timedelta
from typing import Final

from billing.approvals.v1 import approval_rule_service_pb2 as pb
from billing.approvals.v1.approval_rule_pb2 import ApprovalRule

from contract.values import time_or_none
from kit import clock, ids
from kit.db import Database
from kit.origin import Call
from services.approvals import convert, service, store
from services.approvals.clients import Clients
from serving.pages import Pages

_SIMULATED_PERIOD_DEFAULT: Final = timedelta(days=90)
_CHANGES_MAX_DEFAULT: Final = 100


class ApprovalRuleServicer:
    """billing.approvals.v1.ApprovalRuleService."""

    service = pb.DESCRIPTOR.services_by_name["ApprovalRuleService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients) -> None:
        self._db = db
        self._pages = pages
        self._clients = clients

    async def CreateApprovalRule(self, request: pb.CreateApprovalRuleRequest, call: Call) -> ApprovalRule:
        spec = convert.rules.spec_from_proto(request)
        missing = await self._clients.entities.find_missing(call, spec.entity_ids, spec.department_ids)
        problems = await service.approvers.find_problems(self._clients, call, spec.steps)
        async with self._db.write(call) as tx:
            if missing:
                raise missing
            return await tx.answer(convert.rules.to_proto(await service.rules.create(tx, spec, problems)))

    async def ListApprovalRules(self, request: pb.ListApprovalRulesRequest, call: Call) -> pb.ListApprovalRulesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            rules = await store.rules.list_page(tx, page, convert.rules.filter_from_proto(request))
        return pb.ListApprovalRulesResponse(
            approval_rules=map(convert.rules.to_proto, rules.rows), next_page_token=rules.next_page_token
        )

    async def GetApprovalRule(self, request: pb.GetApprovalRuleRequest, call: Call) -> ApprovalRule:
        async with self._db.read(call) as tx:
            row = await service.rules.get(tx, ids.RULE.parse(request.id), request.rule_version)
        return convert.rules.to_proto(row)

    async def UpdateApprovalRule(self, request: pb.UpdateApprovalRuleRequest, call: Call) -> ApprovalRule:
        rule_id, (changes, state) = ids.RULE.parse(request.id), convert.rules.changes_from_proto(request)
        missing = await self._clients.entities.find_missing(
            call, changes.get("entity_ids", ()), changes.get("department_ids", ())
        )
        problems = await service.approvers.find_problems(self._clients, call, changes.get("steps", ()))
        async with self._db.write(call) as tx:
            if missing:
                raise missing
            row = await service.rules.update(tx, rule_id, changes, state, problems=problems, etag=request.etag)
            return await tx.answer(convert.rules.to_proto(row))

    async def DeleteApprovalRule(self, request: pb.DeleteApprovalRuleRequest, call: Call) -> ApprovalRule:
        async with self._db.write(call) as tx:
            row = await service.rules.delete(tx, ids.RULE.parse(request.id), etag=request.etag)
            return await tx.answer(convert.rules.to_proto(row))

    async def SimulateRules(self, request: pb.SimulateRulesRequest, call: Call) -> pb.SimulateRulesResponse:
        spec = convert.rules.spec_from_proto(request.rule)
        replaces = ids.RULE.parse_optional(request.replaces_rule_id, "replaces_rule_id")
        until = time_or_none(request, "until_time") or clock.now()
        since = time_or_none(request, "since_time") or until - _SIMULATED_PERIOD_DEFAULT
        problems = await service.approvers.find_problems(self._clients, call, spec.steps)
        async with self._db.read(call) as tx:
            await service.rules.check(tx, spec, problems, except_id=replaces, path="rule.")
            history = await service.simulations.load_history(tx, since, until, replaces)
        changes_max = request.changes_max or _CHANGES_MAX_DEFAULT
        simulation = await service.simulations.simulate(
            self._clients, call, history, spec, replaces, changes_max=changes_max
        )
        return convert.rules.simulation_to_proto(simulation)
