"""Amendments in few words: somebody who amends contracts, and days that come."""

from datetime import date, timedelta
from typing import Any

from billing.entities.v1 import amendment_service_pb2 as pb
from billing.entities.v1.amendment_pb2 import AmendedTerms, Amendment
from billing.entities.v1.contract_pb2 import Contract

from kit import ids
from services.entities.domain.amendments import AmendmentState
from tests.entities.conftest import EntitiesApi
from tests.entities.contract_api import day
from tests.harness.observe import eventually


class AmendmentApi:
    """What somebody does with amendments."""

    def __init__(self, api: EntitiesApi) -> None:
        self.who, self.stub = api.who, api.amendments_stub

    async def amend(
        self, contract: Contract | str, kind: Amendment.Type.ValueType = Amendment.SEATS, **given: Any
    ) -> Amendment:
        """A new draft: of 20 seats from today on, unless something else is given."""
        return await self.who.call(self.stub.CreateAmendment, amendment_request(contract, kind, **given))

    async def preview(self, contract: Contract | str, kind: Amendment.Type.ValueType, **given: Any) -> Amendment:
        return await self.amend(contract, kind, **given, validate_only=True)

    async def get(self, amendment: Amendment) -> Amendment:
        request = pb.GetAmendmentRequest(id=amendment.contract_id, amendment_id=amendment.id)
        return await self.who.call(self.stub.GetAmendment, request)

    async def list(self, contract: Contract | str, **given: Any) -> pb.ListAmendmentsResponse:
        return await self.who.call(self.stub.ListAmendments, pb.ListAmendmentsRequest(id=_id(contract), **given))

    async def approve(self, amendment: Amendment, **given: Any) -> Amendment:
        request = pb.ApproveAmendmentRequest(id=amendment.contract_id, amendment_id=amendment.id, **given)
        return await self.who.call(self.stub.ApproveAmendment, request)

    async def reject(self, amendment: Amendment, **given: Any) -> Amendment:
        wanted = {"id": amendment.contract_id, "amendment_id": amendment.id, "reason": "not agreed", **given}
        return await self.who.call(self.stub.RejectAmendment, pb.RejectAmendmentRequest(**wanted))

    async def apply(self, amendment: Amendment, **given: Any) -> Amendment:
        request = pb.ApplyAmendmentRequest(id=amendment.contract_id, amendment_id=amendment.id, **given)
        return await self.who.call(self.stub.ApplyAmendment, request)

    async def agree(
        self, contract: Contract, kind: Amendment.Type.ValueType = Amendment.SEATS, **given: Any
    ) -> Amendment:
        """An amendment that is approved."""
        return await self.approve(await self.amend(contract, kind, **given))

    async def settled(self, amendment: Amendment) -> Amendment:
        """The amendment, as soon as the clock has dealt with it."""

        async def over() -> Amendment | None:
            found = await self.get(amendment)
            return found if found.state in {Amendment.APPLIED, Amendment.REJECTED} else None

        found = await eventually(over)
        assert found
        return found


def amendment_request(
    contract: Contract | str, kind: Amendment.Type.ValueType = Amendment.SEATS, **given: Any
) -> pb.CreateAmendmentRequest:
    """With what is required, unless it is given; terms are given by their names."""
    terms = {name: given.pop(name) for name in list(given) if name in AmendedTerms.DESCRIPTOR.fields_by_name}
    if not terms and "after" not in given:
        terms = {"seats": 20}
    required: dict[str, Any] = {
        "id": _id(contract), "amendment_type": kind, "effective_date": day(), "reason": "more people",
        "after": AmendedTerms(**terms),
    }  # fmt: skip
    return pb.CreateAmendmentRequest(**{**required, **given})


def _id(contract: Contract | str) -> str:
    return contract if isinstance(contract, str) else contract.id


def later(text: str, days: int) -> str:
    """So many days after a day."""
    return (date.fromisoformat(text) + timedelta(days=days)).isoformat()


async def its_day_comes(admin: Any, *amendments: Amendment) -> None:
    """Have amendments that were agreed for tomorrow take effect today, all in the same moment."""
    amendment_ids = [ids.AMENDMENT.parse(amendment.id) for amendment in amendments]
    async with admin.acquire() as connection, connection.transaction():
        await connection.execute(
            "update entities.contract_amendments set effective_date = effective_date - 1 where id = any($1)",
            amendment_ids,
        )
        await connection.execute(
            "update entities.timers set due_time = now() where resource_id = any($1)", amendment_ids
        )


async def in_state(
    amendments: AmendmentApi, contract: Contract, admin: Any, state: AmendmentState, *, seats: int
) -> Amendment:
    """An amendment of its own seats in that state, which could be applied today."""
    draft = await amendments.amend(contract, seats=seats, effective_date=day(1))
    if state is AmendmentState.REJECTED:
        draft = await amendments.reject(draft)
    elif state is not AmendmentState.DRAFT:
        draft = await amendments.approve(draft)
    await put_back(admin, draft)
    return await amendments.apply(draft) if state is AmendmentState.APPLIED else draft


async def put_back(admin: Any, amendment: Amendment) -> None:
    """Have it take effect today, and the clock not know it."""
    await admin.execute(
        "update entities.contract_amendments set effective_date = effective_date - 1 where id = $1",
        ids.AMENDMENT.parse(amendment.id),
    )
