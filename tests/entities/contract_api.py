"""Contracts in few words: somebody of procurement who writes, signs and ends them, and time that passes."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from billing.entities.v1 import contract_service_pb2 as pb
from billing.entities.v1.contract_pb2 import Contract, ContractPhase, ContractSignature
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.renewal_pb2 import ContractSummary, RenewalCheck
from billing.type.v1.money_pb2 import Money

from kit import ids
from tests.entities.conftest import EntitiesApi

DIGEST: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class ContractApi:
    """What somebody does with contracts."""

    def __init__(self, api: EntitiesApi) -> None:
        self.api, self.who, self.stub = api, api.who, api.contracts_stub

    async def write(self, entity: Entity | str, **given: Any) -> Contract:
        """A new draft."""
        return await self.who.call(self.stub.CreateContract, contract_request(entity, **given))

    async def get(self, contract: Contract | str) -> Contract:
        return await self.who.call(self.stub.GetContract, pb.GetContractRequest(id=_id(contract)))

    async def page(self, **filters: Any) -> pb.ListContractsResponse:
        return await self.who.call(self.stub.ListContracts, pb.ListContractsRequest(**filters))

    async def names(self, **filters: Any) -> list[str]:
        """The names of all contracts that fit."""
        return [contract.name for contract in (await self.page(page_size=1000, **filters)).contracts]

    async def update(self, contract: Contract | str, **given: Any) -> Contract:
        return await self.who.call(self.stub.UpdateContract, pb.UpdateContractRequest(id=_id(contract), **given))

    async def submit(self, contract: Contract | str, **given: Any) -> Contract:
        return await self.who.call(self.stub.SubmitContract, pb.SubmitContractRequest(id=_id(contract), **given))

    async def sign(
        self,
        contract: Contract | str,
        party: ContractSignature.Party.ValueType = ContractSignature.OURS,
        **given: Any,
    ) -> Contract:
        signed = {"signer_name": "Ada", "signer_title": "CFO", "document_digest": DIGEST, **given}
        request = pb.SignContractRequest(id=_id(contract), party=party, **signed)
        return await self.who.call(self.stub.SignContract, request)

    async def activate(self, contract: Contract | str, **given: Any) -> Contract:
        return await self.who.call(self.stub.ActivateContract, pb.ActivateContractRequest(id=_id(contract), **given))

    async def suspend(self, contract: Contract | str, **given: Any) -> Contract:
        request = pb.SuspendContractRequest(**{"id": _id(contract), "reason": "not paid", **given})
        return await self.who.call(self.stub.SuspendContract, request)

    async def resume(self, contract: Contract | str, **given: Any) -> Contract:
        return await self.who.call(self.stub.ResumeContract, pb.ResumeContractRequest(id=_id(contract), **given))

    async def terminate(self, contract: Contract | str, **given: Any) -> Contract:
        request = pb.TerminateContractRequest(**{"id": _id(contract), "reason": "too dear", **given})
        return await self.who.call(self.stub.TerminateContract, request)

    async def renew(self, contract: Contract | str, **given: Any) -> Contract:
        return await self.who.call(self.stub.RenewContract, pb.RenewContractRequest(id=_id(contract), **given))

    async def check(self, contract: Contract | str) -> RenewalCheck:
        return await self.who.call(self.stub.CheckRenewal, pb.CheckRenewalRequest(id=_id(contract)))

    async def summarize(self, *entities: Entity) -> list[ContractSummary]:
        request = pb.SummarizeContractsRequest(entity_ids=[entity.id for entity in entities])
        return list((await self.who.call(self.stub.SummarizeContracts, request)).summaries)

    async def put_in_force(self, entity: Entity | str, **given: Any) -> Contract:
        """A contract that is written, submitted, signed by both, and active."""
        return await self.bring_into_force(await self.write(entity, **given))

    async def bring_into_force(self, draft: Contract) -> Contract:
        """A draft that is submitted, signed by both, and active."""
        await self.submit(draft)
        for party in (ContractSignature.OURS, ContractSignature.COUNTERPARTY):
            await self.sign(draft, party)
        return await self.activate(draft)


def contract_request(entity: Entity | str, **given: Any) -> pb.CreateContractRequest:
    """With what is required, unless it is given: a year of services from the day before yesterday on."""
    start = date.fromisoformat(given.get("start_date") or day(-2))
    entity_id = entity if isinstance(entity, str) else entity.id
    required: dict[str, Any] = {
        "entity_id": entity_id, "name": "Cloud", "contract_type": Contract.SERVICES,
        "start_date": start.isoformat(), "end_date": (start + timedelta(days=365)).isoformat(),
        "total_value": money("1200"), "billing_frequency": Contract.MONTHLY,
    }  # fmt: skip
    return pb.CreateContractRequest(**{**required, **given})


def _id(contract: Contract | str) -> str:
    return contract if isinstance(contract, str) else contract.id


def money(amount: str, currency: str = "EUR") -> Money:
    """As a request has it."""
    return Money(currency_code=currency, amount=amount)


def phase(start_date: str, fee: str, currency: str = "EUR") -> ContractPhase:
    """As a request has it."""
    return ContractPhase(start_date=start_date, fee=money(fee, currency))


def day(days: int = 0) -> str:
    """So many days from today, UTC."""
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


async def days_pass(admin: Any, days: int, *contracts: Contract) -> None:
    """Put contracts and their timers back by so many days, as if they had been made that much earlier."""
    contract_ids = [ids.CONTRACT.parse(contract.id) for contract in contracts]
    moved = ("start_date", "end_date", "termination_date")
    earlier = ", ".join(f"{column} = {column} - $1::int" for column in moved)
    async with admin.acquire() as connection, connection.transaction():
        await connection.execute(
            f"update entities.billing_contracts set {earlier} where id = any($2)", days, contract_ids
        )
        await connection.execute(
            "update entities.timers set due_time = due_time - make_interval(days => $1) where resource_id = any($2)",
            days,
            contract_ids,
        )


async def contract_timers(admin: Any, contract: Contract) -> Mapping[str, datetime]:
    """When the clock does what to a contract."""
    rows = await admin.fetch(
        "select kind, due_time from entities.timers where resource_id = $1 and starts_with(kind, 'contract-')",
        ids.CONTRACT.parse(contract.id),
    )
    return {row["kind"]: row["due_time"] for row in rows}
