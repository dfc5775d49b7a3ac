"""Amendment calls with default arguments, and helpers that make amendments due."""

from datetime import date, timedelta
from typing import Any

from billing.entities.v1 import amendment_service_pb2 as pb
from billing.entities.v1.amendment_pb2 import AmendedTerms, Amendment
from billing.entities.v1.contract_pb2 import Contract

from kit import ids
from services.entities.domain.amendments import AmendmentState
from tests.entities.contract_api import day
from tests.entities.entities_api import EntitiesApi
from tests.harness.observe import eventually


class AmendmentApi:
    """AmendmentService as one caller uses it."""

    def __init__(self, api: EntitiesApi) -> None:
        self.caller, self.stub = api.caller, api.amendments_stub

    async def create(
        self, contract: Contract | str, kind: Amendment.Type.ValueType = Amendment.SEATS, **fields: Any
    ) -> Amendment:
        """Create a draft; by default it changes the seats to 20 from today on."""
        return await self.caller.call(self.stub.CreateAmendment, amendment_request(contract, kind, **fields))

    async def preview(self, contract: Contract | str, kind: Amendment.Type.ValueType, **fields: Any) -> Amendment:
        return await self.create(contract, kind, **fields, validate_only=True)

    async def get(self, amendment: Amendment) -> Amendment:
        request = pb.GetAmendmentRequest(id=amendment.contract_id, amendment_id=amendment.id)
        return await self.caller.call(self.stub.GetAmendment, request)

    async def list_page(self, contract: Contract | str, **fields: Any) -> pb.ListAmendmentsResponse:
        return await self.caller.call(self.stub.ListAmendments, pb.ListAmendmentsRequest(id=_id(contract), **fields))

    async def approve(self, amendment: Amendment, **fields: Any) -> Amendment:
        request = pb.ApproveAmendmentRequest(id=amendment.contract_id, amendment_id=amendment.id, **fields)
        return await self.caller.call(self.stub.ApproveAmendment, request)

    async def reject(self, amendment: Amendment, **fields: Any) -> Amendment:
        defaults = {"id": amendment.contract_id, "amendment_id": amendment.id, "reason": "not agreed"}
        return await self.caller.call(self.stub.RejectAmendment, pb.RejectAmendmentRequest(**{**defaults, **fields}))

    async def apply(self, amendment: Amendment, **fields: Any) -> Amendment:
        request = pb.ApplyAmendmentRequest(id=amendment.contract_id, amendment_id=amendment.id, **fields)
        return await self.caller.call(self.stub.ApplyAmendment, request)

    async def create_approved(
        self, contract: Contract, kind: Amendment.Type.ValueType = Amendment.SEATS, **fields: Any
    ) -> Amendment:
        """Create an amendment and approve it."""
        return await self.approve(await self.create(contract, kind, **fields))

    async def wait_until_finished(self, amendment: Amendment) -> Amendment:
        """Return the amendment as soon as it is APPLIED or REJECTED."""

        async def finished() -> Amendment | None:
            current = await self.get(amendment)
            return current if current.state in {Amendment.APPLIED, Amendment.REJECTED} else None

        result = await eventually(finished)
        assert result
        return result


def amendment_request(
    contract: Contract | str, kind: Amendment.Type.ValueType = Amendment.SEATS, **fields: Any
) -> pb.CreateAmendmentRequest:
    """A request with defaults; fields of AmendedTerms are passed by their names and go into `after`."""
    terms = {name: fields.pop(name) for name in list(fields) if name in AmendedTerms.DESCRIPTOR.fields_by_name}
    if not terms and "after" not in fields:
        terms = {"seats": 20}
    defaults: dict[str, Any] = {
        "id": _id(contract), "amendment_type": kind, "effective_date": day(), "reason": "more people",
        "after": AmendedTerms(**terms),
    }  # fmt: skip
    return pb.CreateAmendmentRequest(**{**defaults, **fields})


def _id(contract: Contract | str) -> str:
    return contract if isinstance(contract, str) else contract.id


def days_after(date_text: str, days: int) -> str:
    """The date `days` after another date."""
    return (date.fromisoformat(date_text) + timedelta(days=days)).isoformat()


async def make_due(admin: Any, *amendments: Amendment) -> None:
    """Move the effective date of amendments from tomorrow to today, and make all their timers due at once."""
    amendment_ids = [ids.AMENDMENT.parse(amendment.id) for amendment in amendments]
    async with admin.acquire() as connection, connection.transaction():
        await connection.execute(
            "update entities.contract_amendments set effective_date = effective_date - 1 where id = any($1)",
            amendment_ids,
        )
        await connection.execute(
            "update entities.timers set due_time = now() where resource_id = any($1)", amendment_ids
        )


async def create_in_state(
    amendments: AmendmentApi, contract: Contract, admin: Any, state: AmendmentState, *, seats: int
) -> Amendment:
    """Create an amendment in that state whose effective date is today."""
    draft = await amendments.create(contract, seats=seats, effective_date=day(1))
    if state is AmendmentState.REJECTED:
        draft = await amendments.reject(draft)
    elif state is not AmendmentState.DRAFT:
        draft = await amendments.approve(draft)
    await move_to_today(admin, draft)
    return await amendments.apply(draft) if state is AmendmentState.APPLIED else draft


async def move_to_today(admin: Any, amendment: Amendment) -> None:
    """Move the effective date from tomorrow to today, but leave the timer at tomorrow."""
    await admin.execute(
        "update entities.contract_amendments set effective_date = effective_date - 1 where id = $1",
        ids.AMENDMENT.parse(amendment.id),
    )
