"""Services called over gRPC by the name of the RPC, and worlds: a resource of each kind in one tenant or company."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode, aio

from contract.methods import COMMON_APIS
from tests.access.requests import ID, KEYS, all_methods, id_fields, new_request
from tests.harness.callers import Refusal

SETUP: Final = (
    "CreateEntity", "CreateDepartment", "SetExchangeRates", "CreateBudget", "CreateBudget", "Charge", "CreateHold",
    "CreateAllocationRule", "AllocateCost", "SplitCost", "CreateApprovalRule", "CreateDelegation", "CreateApproval",
    "CreateContract", "SubmitContract", "SignContract", "ActivateContract", "CreateAmendment", "CreateBillingProfile",
    "CreateConsolidatedInvoice", "CreateInvoiceSchedule", "IssueInvoice", "CreateCreditNote",
)  # fmt: skip
"""RPCs that make a resource of each kind, in order. A service with a new kind of resource adds an RPC."""
_STREAM_S: Final = 5.0
_TIMEOUT_S: Final = 20.0
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a call: the reply as text, or the error."""

    code: StatusCode
    reason: str = ""
    text: str = ""
    reply: Any = None

    def without(self, *ids: str) -> tuple[StatusCode, str, str]:
        """Return code, reason and text, with these ids replaced; of successful calls only the code."""
        text = self.text
        for each in ids:
            text = re.sub(re.escape(each), "ID", text)
            text = text.replace(each.rpartition("_")[2], "ID")
        return (self.code, self.reason, text if self.code is not StatusCode.OK else "")


@dataclass(frozen=True, slots=True)
class Api:
    """The channels of the services by name."""

    channels: Mapping[str, aio.Channel]

    def services(self, method: MethodDescriptor) -> Sequence[str]:
        """Return the services that implement an RPC."""
        service = method.full_name.split(".")[1]
        served = sorted(self.channels)
        assert service in {*served, *COMMON_APIS}, f"{service} is not served: add it to tests/access/conftest.py"
        return served if service in COMMON_APIS else [service]

    async def call(self, method: MethodDescriptor, request: Any, token: str | None, service: str = "") -> Outcome:
        """Call an RPC; repeat it after conflicts with concurrent calls.

        Of a stream, the first reply counts; without one in time it is OK.
        """
        for _ in range(_ATTEMPTS):
            outcome = await self._call_once(method, request, token, service)
            if outcome.reason != "CONFLICT":
                break
        return outcome

    async def _call_once(self, method: MethodDescriptor, request: Any, token: str | None, service: str) -> Outcome:
        channel = self.channels[service or self.services(method)[0]]
        reply_type = GetMessageClass(method.output_type)
        path = f"/{method.containing_service.full_name}/{method.name}"
        metadata = [("authorization", f"Bearer {token}")] if token is not None else []
        kind: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
        rpc = kind(path, type(request).SerializeToString, reply_type.FromString)
        call = rpc(request, metadata=metadata, timeout=_TIMEOUT_S)
        try:
            if not method.server_streaming:
                reply = await call
            else:
                await call.initial_metadata()
                async with asyncio.timeout(_STREAM_S):
                    reply = await call.read()
        except TimeoutError:
            return Outcome(StatusCode.OK)
        except aio.AioRpcError as error:
            refused = Refusal.of(error)
            text = json.dumps([refused.message, refused.metadata, refused.fields])
            return Outcome(refused.code, refused.reason, text)
        finally:
            call.cancel()
        return Outcome(StatusCode.OK, "", str(reply), reply)


@dataclass(slots=True)
class World:
    """A resource of each kind, by the prefix of its id; all texts of it contain `marker`."""

    token: str
    marker: str
    ids: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """The key that each RPC of KEYS looks up."""

    @classmethod
    async def build(cls, api: Api, token: str, marker: str) -> "World":
        """Create the resources. Fails if one can't be created."""
        elsewhere = {"dsp": f"dsp_{uuid4().hex}"}  # disputes belong to another service, which is not checked here
        world, methods = cls(token, marker, elsewhere), {method.name: method for method in all_methods()}
        for name in SETUP:
            request = new_request(methods[name], world.ids)
            world._mark(request, name)
            outcome = await api.call(methods[name], request, token)
            assert outcome.code is StatusCode.OK, (name, outcome)
            world._learn(outcome.reply)
        await world._read(api, methods["ListAllAlerts"])
        world._complete(methods)
        return world

    def _mark(self, request: Any, name: str) -> None:
        if name == "CreateApprovalRule":
            return  # a rule is for the whole tenant, and every request shows its name
        if name == "CreateBillingProfile":  # every invoice shows its issuer
            request.invoice_prefix, request.statement_prefix, request.credit_note_prefix = (
                f"{self.marker.upper()}-{kind}-" for kind in ("INV", "STA", "CRE")
            )
            return
        for text in ("name", "display_name", "legal_name", "description", "title"):
            if text in request.DESCRIPTOR.fields_by_name and isinstance(getattr(request, text), str):
                setattr(request, text, f"{self.marker} {getattr(request, text)}"[:80])
        for code in ("code", "contract_number"):
            if code in request.DESCRIPTOR.fields_by_name:
                setattr(request, code, self.marker.upper()[:20])
        if name == "CreateEntity":
            request.parent_id = ""
        if name == "Charge":
            request.amount.amount = "70000.00"  # more than half of the budget, so that an alert is raised
            self.keys["GetCharge"] = request.request_id

    def _learn(self, reply: Any) -> None:
        """Remember the id of the resource, and those of kinds that have none so far."""
        for match in ID.finditer(str(reply)):
            if self.ids.setdefault(match[1], match[0]) != match[0]:
                self.ids.setdefault(f"other {match[1]}", match[0])

    async def _read(self, api: Api, method: MethodDescriptor) -> None:
        outcome = await api.call(method, new_request(method, self.ids), self.token)
        self._learn(outcome.reply)

    def _complete(self, methods: Mapping[str, MethodDescriptor]) -> None:
        missing = {prefix for name in methods for _, prefix in id_fields(methods[name])} - self.ids.keys()
        assert not missing, f"no resource has an id {missing}: add the RPC that creates it to SETUP"
        assert self.keys.keys() == KEYS.keys()
