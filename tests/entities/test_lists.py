from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from billing.entities.v1 import department_service_pb2 as departments_pb
from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity

from kit import ids
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal


async def entity_pages(api: EntitiesApi, page_size: int, **filters: object) -> AsyncIterator[Sequence[str]]:
    """The codes on each page."""
    token = None
    while token != "":
        request = pb.ListEntitiesRequest(page_size=page_size, page_token=token or "", **filters)  # type: ignore[arg-type]
        page = await api.caller.call(api.entities_stub.ListEntities, request)
        yield [entity.code for entity in page.entities]
        token = page.next_page_token


class TestListEntities:
    async def test_pages_list_each_once_despite_new_entities(self, api: EntitiesApi) -> None:
        codes = [f"E{n}" for n in range(9)]
        for code in codes:
            await api.create_entity(code)
        listed_codes: list[str] = []
        async for page in entity_pages(api, 2):
            assert len(page) <= 2
            listed_codes += page
            if len(listed_codes) <= 6:
                codes.append((await api.create_entity(f"LATE{len(listed_codes)}")).code)
        assert listed_codes == codes

    async def test_full_last_page_has_no_token(self, api: EntitiesApi) -> None:
        for n in range(4):
            await api.create_entity(f"E{n}")
        assert [page async for page in entity_pages(api, 2)] == [["E0", "E1"], ["E2", "E3"]]

    async def test_page_has_fifty_by_default(self, api: EntitiesApi) -> None:
        for n in range(51):
            await api.create_entity(f"E{n}")
        page = await api.caller.call(api.entities_stub.ListEntities, pb.ListEntitiesRequest())
        assert len(page.entities) == 50
        assert page.next_page_token

    async def test_every_filter(self, api: EntitiesApi) -> None:
        root = await api.create_entity("ROOT", legal_name="Root 100% AG", entity_type=Entity.HOLDING)
        one = await api.create_entity("ONE", parent_id=root.id, legal_name="Erste_Gesellschaft mbH")
        await api.create_entity("TWO", parent_id=root.id, display_name="Größte Schwester", entity_type=Entity.BRANCH)
        await api.create_entity("THREE", parent_id=one.id)
        await api.deactivate(await api.create_entity("GONE", parent_id=root.id))
        assert await api.entities() == ["ROOT", "ONE", "TWO", "THREE", "GONE"]
        assert await api.entities(state=Entity.INACTIVE) == ["GONE"]
        assert await api.entities(state=Entity.ACTIVE, parent_id=root.id) == ["ONE", "TWO"]
        assert await api.entities(parent_id=one.id) == ["THREE"]
        assert await api.entities(entity_type=Entity.BRANCH) == ["TWO"]
        assert await api.entities(code="ONE") == ["ONE"]
        assert await api.entities(code="one") == []
        assert await api.entities(q="O") == ["ROOT", "ONE", "TWO", "GONE"]
        assert await api.entities(q="größte") == ["TWO"]
        assert await api.entities(q="100%") == ["ROOT"]
        assert await api.entities(q="%") == ["ROOT"]
        assert await api.entities(q="_") == ["ONE"]
        assert await api.entities(q="t", entity_type=Entity.HOLDING, state=Entity.ACTIVE) == ["ROOT"]
        assert await api.entities(parent_id=ids.ENTITY.format(ids.new())) == []

    async def test_pages_of_a_filtered_list(self, api: EntitiesApi) -> None:
        for n in range(5):
            await api.create_entity(f"A{n}")
            await api.create_entity(f"B{n}")
        assert [page async for page in entity_pages(api, 2, q="b")] == [["B0", "B1"], ["B2", "B3"], ["B4"]]

    async def test_token_is_bound_to_filters_and_tenant(
        self, api: EntitiesApi, api_for: Callable[[Caller], EntitiesApi], caller: Callable[..., Caller]
    ) -> None:
        for n in range(3):
            await api.create_entity(f"E{n}")
        first = await api.caller.call(api.entities_stub.ListEntities, pb.ListEntitiesRequest(page_size=2))
        token = first.next_page_token
        error = await refusal(api.entities(page_token=token, q="E"))
        assert (error.reason, set(error.fields)) == ("PAGE_TOKEN_INVALID", {"page_token"})
        other_tenant = api_for(caller("finance", tenant=ids.new()))
        assert (await refusal(other_tenant.entities(page_token=token))).reason == "PAGE_TOKEN_INVALID"
        assert await api.entities(page_token=token) == ["E2"]

    async def test_page_has_a_thousand_at_most(self, api: EntitiesApi) -> None:
        request = pb.ListEntitiesRequest(page_size=1001)
        error = await refusal(api.caller.call(api.entities_stub.ListEntities, request))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"page_size"})


class TestListDepartments:
    @pytest.fixture
    async def acme(self, api: EntitiesApi) -> Entity:
        return await api.create_entity("ACME")

    async def test_pages_list_each_once_despite_new_departments(self, api: EntitiesApi, acme: Entity) -> None:
        codes = [(await api.create_department(acme, f"D{n}")).code for n in range(9)]
        listed_codes: list[str] = []
        request = departments_pb.ListDepartmentsRequest(page_size=4)
        while not listed_codes or request.page_token:
            page = await api.caller.call(api.departments_stub.ListDepartments, request)
            listed_codes += [department.code for department in page.departments]
            request.page_token = page.next_page_token
            if len(listed_codes) == 4:
                codes.append((await api.create_department(acme, "LATE")).code)
        assert listed_codes == codes

    async def test_every_filter(self, api: EntitiesApi, acme: Entity) -> None:
        other = await api.create_entity("OTHER")
        engineering = await api.create_department(acme, "ENG", manager_user_id="bob", cost_center="1")
        await api.create_department(acme, "QA", parent_id=engineering.id, manager_user_id="bob", cost_center="2")
        await api.create_department(acme, "SALES", manager_user_id="carol", cost_center="1")
        await api.create_department(other, "ENG2", manager_user_id="bob")
        assert await api.departments() == ["ENG", "QA", "SALES", "ENG2"]
        assert await api.departments(entity_id=acme.id) == ["ENG", "QA", "SALES"]
        assert await api.departments(parent_id=engineering.id) == ["QA"]
        assert await api.departments(manager_user_id="bob") == ["ENG", "QA", "ENG2"]
        assert await api.departments(cost_center="1") == ["ENG", "SALES"]
        assert await api.departments(state=Department.INACTIVE) == []
        assert await api.departments(state=Department.ACTIVE, cost_center="1", manager_user_id="bob") == ["ENG"]
