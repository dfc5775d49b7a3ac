"""BillingProfileService."""

from billing.entities.v1 import billing_profile_service_pb2 as pb
from billing.entities.v1.billing_profile_pb2 import BillingProfile

from kit import ids
from kit.db import Database
from kit.origin import Call
from services.entities import convert, service, store
from serving.pages import Pages


class BillingProfileServicer:
    """billing.entities.v1.BillingProfileService."""

    service = pb.DESCRIPTOR.services_by_name["BillingProfileService"]

    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateBillingProfile(self, request: pb.CreateBillingProfileRequest, call: Call) -> BillingProfile:
        draft = convert.billing_profiles.draft_from_proto(request)
        async with self._db.write(call) as tx:
            profile = await service.billing_profiles.create(tx, draft)
            return await tx.answer(convert.billing_profiles.to_proto(profile))

    async def ListBillingProfiles(
        self, request: pb.ListBillingProfilesRequest, call: Call
    ) -> pb.ListBillingProfilesResponse:
        page, filters = self._pages.read(request, call), convert.billing_profiles.filter_from_proto(request)
        async with self._db.read(call) as tx:
            listed = await store.billing_profiles.list_page(tx, page, filters)
        profiles = map(convert.billing_profiles.to_proto, listed.rows)
        return pb.ListBillingProfilesResponse(billing_profiles=profiles, next_page_token=listed.next_page_token)

    async def GetBillingProfile(self, request: pb.GetBillingProfileRequest, call: Call) -> BillingProfile:
        async with self._db.read(call) as tx:
            profile = await store.billing_profiles.get(tx, ids.BILLING_PROFILE.parse(request.id))
        return convert.billing_profiles.to_proto(profile)

    async def UpdateBillingProfile(self, request: pb.UpdateBillingProfileRequest, call: Call) -> BillingProfile:
        profile_id = ids.BILLING_PROFILE.parse(request.id)
        changes = convert.billing_profiles.changes_from_proto(request)
        async with self._db.write(call) as tx:
            profile = await service.billing_profiles.update(tx, profile_id, changes, etag=request.etag)
            return await tx.answer(convert.billing_profiles.to_proto(profile))

    async def DeactivateBillingProfile(self, request: pb.DeactivateBillingProfileRequest, call: Call) -> BillingProfile:
        profile_id = ids.BILLING_PROFILE.parse(request.id)
        async with self._db.write(call) as tx:
            profile = await service.billing_profiles.deactivate(tx, profile_id, etag=request.etag)
            return await tx.answer(convert.billing_profiles.to_proto(profile))

    async def ActivateBillingProfile(self, request: pb.ActivateBillingProfileRequest, call: Call) -> BillingProfile:
        profile_id = ids.BILLING_PROFILE.parse(request.id)
        async with self._db.write(call) as tx:
            profile = await service.billing_profiles.activate(tx, profile_id, etag=request.etag)
            return await tx.answer(convert.billing_profiles.to_proto(profile))
