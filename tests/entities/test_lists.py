from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from billing.entities.v1 import department_service_pb2 as departments_pb
from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity

from kit import ids
from tests.entities.conftest import Desk
from tests.harness.callers import Caller, refusal


async def entity_pages(desk: Desk, page_size: int, **filters: object) -> AsyncIterator[Sequence[str]]:
    """The codes on each page."""
    token = None
    while token != "":
        request = pb.ListEntitiesRequest(page_size=page_size, page_token=token or "", **filters)  # type: ignore[arg-type]
        page = await desk.who.call(desk.entities_stub.ListEntities, request)
        yield [entity.code for entity in page.entities]
        token = page.next_page_token


class TestListEntities:
    async def test_each_is_on_one_page_while_others_are_founded(self, desk: Desk) -> None:
        codes = [f"E{n}" for n in range(9)]
        for code in codes:
            await desk.found(code)
        seen: list[str] = []
        async for page in entity_pages(desk, 2):
            assert len(page) <= 2
            seen += page
            if len(seen) <= 6:
                codes.append((await desk.found(f"LATE{len(seen)}")).code)
        assert seen == codes

    async def test_a_last_page_that_is_full_says_so(self, desk: Desk) -> None:
        for n in range(4):
            await desk.found(f"E{n}")
        assert [page async for page in entity_pages(desk, 2)] == [["E0", "E1"], ["E2", "E3"]]

    async def test_fifty_by_default(self, desk: Desk) -> None:
        for n in range(51):
            await desk.found(f"E{n}")
        page = await desk.who.call(desk.entities_stub.ListEntities, pb.ListEntitiesRequest())
        assert len(page.entities) == 50
        assert page.next_page_token

    async def test_every_filter(self, desk: Desk) -> None:
        root = await desk.found("ROOT", legal_name="Root 100% AG", entity_type=Entity.HOLDING)
        one = await desk.found("ONE", parent_id=root.id, legal_name="Erste_Gesellschaft mbH")
        await desk.found("TWO", parent_id=root.id, display_name="Größte Schwester", entity_type=Entity.BRANCH)
        await desk.found("THREE", parent_id=one.id)
        await desk.deactivate(await desk.found("GONE", parent_id=root.id))
        assert await desk.entities() == ["ROOT", "ONE", "TWO", "THREE", "GONE"]
        assert await desk.entities(state=Entity.INACTIVE) == ["GONE"]
        assert await desk.entities(state=Entity.ACTIVE, parent_id=root.id) == ["ONE", "TWO"]
        assert await desk.entities(parent_id=one.id) == ["THREE"]
        assert await desk.entities(entity_type=Entity.BRANCH) == ["TWO"]
        assert await desk.entities(code="ONE") == ["ONE"]
        assert await desk.entities(code="one") == []
        assert await desk.entities(q="O") == ["ROOT", "ONE", "TWO", "GONE"]
        assert await desk.entities(q="größte") == ["TWO"]
        assert await desk.entities(q="100%") == ["ROOT"]
        assert await desk.entities(q="%") == ["ROOT"]
        assert await desk.entities(q="_") == ["ONE"]
        assert await desk.entities(q="t", entity_type=Entity.HOLDING, state=Entity.ACTIVE) == ["ROOT"]
        assert await desk.entities(parent_id=ids.ENTITY.format(ids.new())) == []

    async def test_a_page_of_filtered_ones(self, desk: Desk) -> None:
        for n in range(5):
            await desk.found(f"A{n}")
            await desk.found(f"B{n}")
        assert [page async for page in entity_pages(desk, 2, q="b")] == [["B0", "B1"], ["B2", "B3"], ["B4"]]

    async def test_a_token_belongs_to_its_filters_and_its_tenant(
        self, desk: Desk, desk_of: Callable[[Caller], Desk], caller: Callable[..., Caller]
    ) -> None:
        for n in range(3):
            await desk.found(f"E{n}")
        first = await desk.who.call(desk.entities_stub.ListEntities, pb.ListEntitiesRequest(page_size=2))
        token = first.next_page_token
        refused = await refusal(desk.entities(page_token=token, q="E"))
        assert (refused.reason, set(refused.fields)) == ("PAGE_TOKEN_INVALID", {"page_token"})
        other_tenant = desk_of(caller("finance", tenant=ids.new()))
        assert (await refusal(other_tenant.entities(page_token=token))).reason == "PAGE_TOKEN_INVALID"
        assert await desk.entities(page_token=token) == ["E2"]

    async def test_a_page_has_a_thousand_at_most(self, desk: Desk) -> None:
        request = pb.ListEntitiesRequest(page_size=1001)
        refused = await refusal(desk.who.call(desk.entities_stub.ListEntities, request))
        assert (refused.reason, set(refused.fields)) == ("INVALID_FIELDS", {"page_size"})


class TestListDepartments:
    @pytest.fixture
    async def acme(self, desk: Desk) -> Entity:
        return await desk.found("ACME")

    async def test_each_is_on_one_page_while_others_are_set_up(self, desk: Desk, acme: Entity) -> None:
        codes = [(await desk.set_up(acme, f"D{n}")).code for n in range(9)]
        seen: list[str] = []
        request = departments_pb.ListDepartmentsRequest(page_size=4)
        while not seen or request.page_token:
            page = await desk.who.call(desk.departments_stub.ListDepartments, request)
            seen += [department.code for department in page.departments]
            request.page_token = page.next_page_token
            if len(seen) == 4:
                codes.append((await desk.set_up(acme, "LATE")).code)
        assert seen == codes

    async def test_every_filter(self, desk: Desk, acme: Entity) -> None:
        other = await desk.found("OTHER")
        engineering = await desk.set_up(acme, "ENG", manager_user_id="bob", cost_center="1")
        await desk.set_up(acme, "QA", parent_id=engineering.id, manager_user_id="bob", cost_center="2")
        await desk.set_up(acme, "SALES", manager_user_id="carol", cost_center="1")
        await desk.set_up(other, "ENG2", manager_user_id="bob")
        assert await desk.departments() == ["ENG", "QA", "SALES", "ENG2"]
        assert await desk.departments(entity_id=acme.id) == ["ENG", "QA", "SALES"]
        assert await desk.departments(parent_id=engineering.id) == ["QA"]
        assert await desk.departments(manager_user_id="bob") == ["ENG", "QA", "ENG2"]
        assert await desk.departments(cost_center="1") == ["ENG", "SALES"]
        assert await desk.departments(state=Department.INACTIVE) == []
        assert await desk.departments(state=Department.ACTIVE, cost_center="1", manager_user_id="bob") == ["ENG"]
