"""Contract calls with default arguments, and helpers that let time pass for contracts."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from billing.entities.v1 import contract_service_pb2 as pb
from billing.entities.v1.contract_pb2 import Contract, ContractPhase, ContractSignature
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.renewal_pb2 import ContractSummary, RenewalCheck
from billing.type.v1.money_pb2 import Money

from kit import ids
from services.entities import convert, domain
from tests.entities.entities_api import EntitiesApi

DIGEST: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class ContractApi:
    """ContractService as one caller uses it."""

    def __init__(self, api: EntitiesApi) -> None:
        self.api, self.caller, self.stub = api, api.caller, api.contracts_stub

    async def create(self, entity: Entity | str, **fields: Any) -> Contract:
        return await self.caller.call(self.stub.CreateContract, contract_request(entity, **fields))

    async def get(self, contract: Contract | str) -> Contract:
        return await self.caller.call(self.stub.GetContract, pb.GetContractRequest(id=_id(contract)))

    async def list_page(self, **filters: Any) -> pb.ListContractsResponse:
        return await self.caller.call(self.stub.ListContracts, pb.ListContractsRequest(**filters))

    async def list_names(self, **filters: Any) -> list[str]:
        """The names of all contracts that match the filters."""
        return [contract.name for contract in (await self.list_page(page_size=1000, **filters)).contracts]

    async def update(self, contract: Contract | str, **fields: Any) -> Contract:
        return await self.caller.call(self.stub.UpdateContract, pb.UpdateContractRequest(id=_id(contract), **fields))

    async def submit(self, contract: Contract | str, **fields: Any) -> Contract:
        return await self.caller.call(self.stub.SubmitContract, pb.SubmitContractRequest(id=_id(contract), **fields))

    async def sign(
        self,
        contract: Contract | str,
        party: ContractSignature.Party.ValueType = ContractSignature.OURS,
        **fields: Any,
    ) -> Contract:
        defaults = {"signer_name": "Ada", "signer_title": "CFO", "document_digest": DIGEST}
        request = pb.SignContractRequest(**{"id": _id(contract), "party": party, **defaults, **fields})
        return await self.caller.call(self.stub.SignContract, request)

    async def activate(self, contract: Contract | str, **fields: Any) -> Contract:
        request = pb.ActivateContractRequest(id=_id(contract), **fields)
        return await self.caller.call(self.stub.ActivateContract, request)

    async def suspend(self, contract: Contract | str, **fields: Any) -> Contract:
        request = pb.SuspendContractRequest(**{"id": _id(contract), "reason": "not paid", **fields})
        return await self.caller.call(self.stub.SuspendContract, request)

    async def resume(self, contract: Contract | str, **fields: Any) -> Contract:
        return await self.caller.call(self.stub.ResumeContract, pb.ResumeContractRequest(id=_id(contract), **fields))

    async def terminate(self, contract: Contract | str, **fields: Any) -> Contract:
        request = pb.TerminateContractRequest(**{"id": _id(contract), "reason": "too expensive", **fields})
        return await self.caller.call(self.stub.TerminateContract, request)

    async def withdraw_termination(self, contract: Contract | str, **fields: Any) -> Contract:
        request = pb.WithdrawTerminationRequest(id=_id(contract), **fields)
        return await self.caller.call(self.stub.WithdrawTermination, request)

    async def renew(self, contract: Contract | str, **fields: Any) -> Contract:
        return await self.caller.call(self.stub.RenewContract, pb.RenewContractRequest(id=_id(contract), **fields))

    async def check_renewal(self, contract: Contract | str) -> RenewalCheck:
        return await self.caller.call(self.stub.CheckRenewal, pb.CheckRenewalRequest(id=_id(contract)))

    async def summarize(self, *entities: Entity) -> list[ContractSummary]:
        request = pb.SummarizeContractsRequest(entity_ids=[entity.id for entity in entities])
        return list((await self.caller.call(self.stub.SummarizeContracts, request)).summaries)

    async def create_active(self, entity: Entity | str, **fields: Any) -> Contract:
        """Create, submit, sign and activate a contract."""
        return await self.activate_draft(await self.create(entity, **fields))

    async def activate_draft(self, draft: Contract) -> Contract:
        """Submit, sign for both parties and activate a draft."""
        await self.submit(draft)
        for party in (ContractSignature.OURS, ContractSignature.COUNTERPARTY):
            await self.sign(draft, party)
        return await self.activate(draft)


def contract_request(entity: Entity | str, **fields: Any) -> pb.CreateContractRequest:
    """A request with defaults: 1200 EUR for 365 days of services, from the day before yesterday on."""
    start = date.fromisoformat(fields.get("start_date") or day(-2))
    entity_id = entity if isinstance(entity, str) else entity.id
    defaults: dict[str, Any] = {
        "entity_id": entity_id, "name": "Cloud", "contract_type": Contract.SERVICES,
        "start_date": start.isoformat(), "end_date": (start + timedelta(days=365)).isoformat(),
        "total_value": money("1200"), "billing_frequency": Contract.MONTHLY,
    }  # fmt: skip
    return pb.CreateContractRequest(**{**defaults, **fields})


def value_of_phases(**fields: Any) -> Money:
    """The total value that a contract with these terms must have."""
    terms = convert.contracts.terms_from_proto(contract_request("", **fields))
    return money(domain.fees.term_value(domain.fees.build_plan(terms), terms.start_date).text())


def _id(contract: Contract | str) -> str:
    return contract if isinstance(contract, str) else contract.id


def money(amount: str, currency: str = "EUR") -> Money:
    """A Money message."""
    return Money(currency_code=currency, amount=amount)


def phase(start_date: str, fee: str, currency: str = "EUR") -> ContractPhase:
    """A ContractPhase message."""
    return ContractPhase(start_date=start_date, fee=money(fee, currency))


def day(days: int = 0) -> str:
    """The date `days` after today (before it if negative), in UTC."""
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


async def let_days_pass(admin: Any, days: int, *contracts: Contract) -> None:
    """Move the dates and timers of contracts back by `days`, as if they had been created that much earlier."""
    contract_ids = [ids.CONTRACT.parse(contract.id) for contract in contracts]
    columns = ("start_date", "end_date", "termination_date")
    assignments = ", ".join(f"{column} = {column} - $1::int" for column in columns)
    async with admin.acquire() as connection, connection.transaction():
        await connection.execute(
            f"update entities.billing_contracts set {assignments} where id = any($2)", days, contract_ids
        )
        await connection.execute(
            "update entities.timers set due_time = due_time - make_interval(days => $1) where resource_id = any($2)",
            days,
            contract_ids,
        )


async def contract_timers(admin: Any, contract: Contract) -> Mapping[str, datetime]:
    """The due times of the contract's own timers, by kind."""
    rows = await admin.fetch(
        "select kind, due_time from entities.timers where resource_id = $1 and starts_with(kind, 'contract-')",
        ids.CONTRACT.parse(contract.id),
    )
    return {row["kind"]: row["due_time"] for row in rows}
