"""Filters and pages of ListApprovals."""

from billing.approvals.v1 import approval_service_pb2 as pb
from billing.approvals.v1.approval_pb2 import Approval

from tests.approvals.conftest import ApprovalsApi, step
from tests.harness.callers import refusal


async def test_filters_and_pages(api: ApprovalsApi) -> None:
    await api.create_rule(step("C", "carla"), is_default=True)
    amounts = [f"{number}.00" for number in range(1, 8)]
    approvals = [await api.submit(amount=amount) for amount in amounts]
    await api.act("carla", approvals[0])
    lower, upper = api.new_request("2.00").amount, api.new_request("5.00").amount
    call = api.stubs.approvals.ListApprovals

    async def amounts_of(**filters: object) -> list[str]:
        request = pb.ListApprovalsRequest(**filters)  # type: ignore[arg-type]  # by name
        return [one.amount.amount for one in (await api.admin.call(call, request)).approvals]

    assert await amounts_of() == amounts[::-1]
    assert await amounts_of(state=Approval.APPROVED) == ["1.00"]
    assert await amounts_of(amount_from=lower, amount_to=upper) == ["5.00", "4.00", "3.00", "2.00"]
    dollars = type(upper)(amount="5.00", currency_code="USD")
    rejected = await refusal(amounts_of(amount_from=lower, amount_to=dollars))
    assert rejected.fields == {"amount_to.currency_code": "must be the currency of amount_from, EUR"}
    assert await amounts_of(requester="nobody") == []
    assert await amounts_of(mine=pb.ListApprovalsRequest.REQUESTED) == []
    listed, token = [], ""
    while True:
        page = await api.admin.call(call, pb.ListApprovalsRequest(page_size=3, page_token=token))
        listed += [one.id for one in page.approvals]
        token = page.next_page_token
        if not token:
            break
    assert listed == [one.id for one in approvals[::-1]]
    assert (await api.to_decide("carla"), await api.to_decide("alice")) == (listed[:-1], [])
