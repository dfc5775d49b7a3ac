"""The gRPC side of rules."""

from datetime import timedelta
from typing import Final

from billing.approvals.v1 import approval_rule_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval
from billing.approvals.v1.approval_rule_pb2 import ApprovalRule

from contract.values import time_from_proto
from kit import clock, ids
from kit.db import Database
from kit.origin import Call
from services.approvals.clients import Clients
from services.approvals.convert.rules import (
    changes_from_proto,
    rule_to_proto,
    simulation_to_proto,
    terms_from_proto,
)
from services.approvals.domain.lives import ApprovalType, RuleState
from services.approvals.service import rules, simulation
from services.approvals.store import rules as store
from serving.pages import Pages

_LOOKED_BACK: Final = timedelta(days=90)
_CHANGES_DEFAULT: Final = 100


class ApprovalRuleServicer:
    """billing.approvals.v1.ApprovalRuleService."""

    service = pb.DESCRIPTOR.services_by_name["ApprovalRuleService"]

    def __init__(self, db: Database, pages: Pages, clients: Clients) -> None:
        self._db = db
        self._pages = pages
        self.clients = clients

    async def CreateApprovalRule(self, request: pb.CreateApprovalRuleRequest, call: Call) -> ApprovalRule:
        terms = terms_from_proto(request)
        known = await self.clients.lineage.known(call, terms.entity_ids, terms.department_ids)
        async with self._db.write(call) as tx:
            known.check()
            return await tx.answer(rule_to_proto(await rules.create_rule(tx, terms)))

    async def ListApprovalRules(self, request: pb.ListApprovalRulesRequest, call: Call) -> pb.ListApprovalRulesResponse:
        page = self._pages.read(request, call)
        async with self._db.read(call) as tx:
            found = await store.list_rules(
                tx,
                page,
                state=RuleState(ApprovalRule.State.Name(request.state)) if request.state else None,
                request_type=ApprovalType(Approval.Type.Name(request.request_type)) if request.request_type else None,
                ladder=request.ladder,
            )
        listed = map(rule_to_proto, found.rows)
        return pb.ListApprovalRulesResponse(approval_rules=listed, next_page_token=found.next_page_token)

    async def GetApprovalRule(self, request: pb.GetApprovalRuleRequest, call: Call) -> ApprovalRule:
        async with self._db.read(call) as tx:
            return rule_to_proto(await rules.get_rule(tx, ids.RULE.parse(request.id), request.rule_version))

    async def UpdateApprovalRule(self, request: pb.UpdateApprovalRuleRequest, call: Call) -> ApprovalRule:
        rule_id, (changes, state) = ids.RULE.parse(request.id), changes_from_proto(request)
        known = await self.clients.lineage.known(call, changes.get("entity_ids", ()), changes.get("department_ids", ()))
        async with self._db.write(call) as tx:
            known.check()
            row = await rules.update_rule(tx, rule_id, changes, state, etag=request.etag)
            return await tx.answer(rule_to_proto(row))

    async def DeleteApprovalRule(self, request: pb.DeleteApprovalRuleRequest, call: Call) -> ApprovalRule:
        async with self._db.write(call) as tx:
            row = await rules.delete_rule(tx, ids.RULE.parse(request.id), etag=request.etag)
            return await tx.answer(rule_to_proto(row))

    async def SimulateRules(self, request: pb.SimulateRulesRequest, call: Call) -> pb.SimulateRulesResponse:
        terms, now = terms_from_proto(request.rule), clock.now()
        replaces = ids.RULE.parse_optional(request.replaces_rule_id, "replaces_rule_id")
        until = time_from_proto(request.until_time) if request.HasField("until_time") else now
        since = time_from_proto(request.since_time) if request.HasField("since_time") else until - _LOOKED_BACK
        async with self._db.read(call) as tx:
            await rules.check_terms(tx, terms, but=replaces)
            past = await simulation.find_past(tx, since, until, replaces)
        found = await simulation.simulate(
            self.clients, call, past, terms, replaces, changes_max=request.changes_max or _CHANGES_DEFAULT
        )
        return simulation_to_proto(found)
