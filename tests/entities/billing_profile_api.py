"""Test driver for billing profiles."""

from typing import Any

from billing.entities.v1 import billing_profile_service_pb2 as pb
from billing.entities.v1.billing_profile_pb2 import BillingProfile
from billing.entities.v1.entity_pb2 import Address

from tests.harness.callers import Caller
from tests.harness.services import Entities


def profile_request(name: str = "Acme", **fields: Any) -> pb.CreateBillingProfileRequest:
    """With the required fields, unless the profile has an entity."""
    required = {"legal_name": f"{name} SE", "address": Address(country_code="DE"), "currency_code": "EUR"}
    return pb.CreateBillingProfileRequest(**{"name": name, **({} if "entity_id" in fields else required), **fields})


class BillingProfileApi:
    """Calls BillingProfileService on behalf of a caller."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        self.caller = caller
        self.stub = stubs.billing_profiles

    async def create(self, name: str = "Acme", **fields: Any) -> BillingProfile:
        return await self.caller.call(self.stub.CreateBillingProfile, profile_request(name, **fields))

    async def get(self, profile: BillingProfile) -> BillingProfile:
        return await self.caller.call(self.stub.GetBillingProfile, pb.GetBillingProfileRequest(id=profile.id))

    async def names(self, **filters: Any) -> list[str]:
        """The names of all profiles that match."""
        request = pb.ListBillingProfilesRequest(page_size=1000, **filters)
        response = await self.caller.call(self.stub.ListBillingProfiles, request)
        return [profile.name for profile in response.billing_profiles]

    async def update(self, profile: BillingProfile, *paths: str, **fields: Any) -> BillingProfile:
        """Change the fields that are set, or those in `paths`."""
        request = pb.UpdateBillingProfileRequest(id=profile.id, **fields)
        request.update_mask.paths.extend(paths)
        return await self.caller.call(self.stub.UpdateBillingProfile, request)

    async def deactivate(self, profile: BillingProfile, **fields: Any) -> BillingProfile:
        request = pb.DeactivateBillingProfileRequest(id=profile.id, **fields)
        return await self.caller.call(self.stub.DeactivateBillingProfile, request)

    async def activate(self, profile: BillingProfile, **fields: Any) -> BillingProfile:
        request = pb.ActivateBillingProfileRequest(id=profile.id, **fields)
        return await self.caller.call(self.stub.ActivateBillingProfile, request)
