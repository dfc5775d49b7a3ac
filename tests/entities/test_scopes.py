"""Access of confined callers and other tenants, and what a scope covers."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from billing.entities.v1 import department_service_pb2 as departments_pb
from billing.entities.v1 import entity_service_pb2 as pb
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from grpc import StatusCode

from kit import ids
from tests.entities.entities_api import EntitiesApi
from tests.harness.callers import Caller, refusal


@dataclass(frozen=True, slots=True)
class Group:
    """ROOT with children DE and FR, DE with DE-SUB. DE has the departments ENG (with QA) and HR, FR has VENTES."""

    root: Entity
    de: Entity
    de_sub: Entity
    fr: Entity
    eng: Department
    qa: Department
    hr: Department
    ventes: Department


@pytest.fixture
async def group(api: EntitiesApi) -> Group:
    root = await api.create_entity("ROOT")
    de = await api.create_entity("DE", parent_id=root.id)
    fr = await api.create_entity("FR", parent_id=root.id)
    eng = await api.create_department(de, "ENG")
    return Group(
        root=root,
        de=de,
        de_sub=await api.create_entity("DE-SUB", parent_id=de.id),
        fr=fr,
        eng=eng,
        qa=await api.create_department(de, "QA", parent_id=eng.id),
        hr=await api.create_department(de, "HR"),
        ventes=await api.create_department(fr, "VENTES"),
    )


@pytest.fixture
def confined(api_for: Callable[[Caller], EntitiesApi], caller: Callable[..., Caller]) -> Callable[..., EntitiesApi]:
    """EntitiesApi of a caller whose token is confined to entities or departments."""
    return lambda role="finance", **scope: api_for(caller(role, subject="conny", **scope))


class TestConfinedToAnEntity:
    @pytest.fixture
    def conny(self, group: Group, confined: Callable[..., EntitiesApi]) -> EntitiesApi:
        return confined(entity_scope=[group.de.id])

    async def test_scope_includes_everything_below(self, conny: EntitiesApi, group: Group) -> None:
        assert await conny.entities() == ["DE", "DE-SUB"]
        assert await conny.departments() == ["ENG", "QA", "HR"]
        assert [child.entity.code for child in (await conny.tree(group.de)).children] == ["DE-SUB"]
        assert (await conny.get(group.de_sub)).code == "DE-SUB"
        assert (await conny.department(group.qa)).code == "QA"

    async def test_caller_can_change_everything_below(self, conny: EntitiesApi, group: Group) -> None:
        assert (await conny.update(group.de_sub, tax_id="DE111111125")).tax_id == "DE111111125"
        assert (await conny.update_department(group.hr, name="People")).name == "People"
        child = await conny.create_entity("DE-NEW", parent_id=group.de.id)
        assert (await conny.create_department(child, "NEW")).code == "NEW"
        assert await conny.entities() == ["DE", "DE-SUB", "DE-NEW"]
        assert (await conny.deactivate(child)).state == Entity.INACTIVE

    async def test_cannot_create_a_root(self, conny: EntitiesApi) -> None:
        error = await refusal(conny.create_entity("NEW-ROOT"))
        assert (error.reason, set(error.fields)) == ("INVALID_FIELDS", {"parent_id"})

    async def test_everything_else_is_not_found(self, conny: EntitiesApi, api: EntitiesApi, group: Group) -> None:
        calls: list[Callable[[EntitiesApi, str], Coroutine[Any, Any, object]]] = [
            lambda some_caller, id: some_caller.tree(id),
            lambda some_caller, id: some_caller.update(id, tax_id="1"),
            lambda some_caller, id: some_caller.deactivate(id),
            lambda some_caller, id: some_caller.create_entity("NEW", parent_id=id),
            lambda some_caller, id: some_caller.create_department(id, "NEW"),
        ]
        unknown_id = ids.ENTITY.format(ids.new())
        for call in calls:
            for outside_id in (group.root.id, group.fr.id):
                error, unknown = await refusal(call(conny, outside_id)), await refusal(call(api, unknown_id))
                assert (error.code, error.reason) == (StatusCode.NOT_FOUND, "ENTITY_NOT_FOUND")
                assert repr(error).replace(outside_id, "*") == repr(unknown).replace(unknown_id, "*")
        assert await conny.entities(parent_id=group.root.id) == ["DE"]
        assert await conny.entities(code="FR") == []
        assert await conny.departments(entity_id=group.fr.id) == []
        assert (await refusal(conny.department(group.ventes))).reason == "DEPARTMENT_NOT_FOUND"
        assert (await refusal(conny.update_department(group.ventes, name="X"))).reason == "DEPARTMENT_NOT_FOUND"
        assert await api.entities() == ["ROOT", "DE", "FR", "DE-SUB"]


class TestConfinedToADepartment:
    @pytest.fixture
    def conny(self, group: Group, confined: Callable[..., EntitiesApi]) -> EntitiesApi:
        return confined(department_scope=[group.eng.id])

    async def test_scope_includes_everything_below(self, conny: EntitiesApi, group: Group) -> None:
        assert await conny.departments() == ["ENG", "QA"]
        assert (await conny.department(group.qa)).code == "QA"
        assert (await refusal(conny.department(group.hr))).reason == "DEPARTMENT_NOT_FOUND"
        assert await conny.entities() == []
        assert (await refusal(conny.tree(group.de))).reason == "ENTITY_NOT_FOUND"

    async def test_caller_creates_departments_only_below_the_scope(self, conny: EntitiesApi, group: Group) -> None:
        await conny.create_department(group.de, "NEW", parent_id=group.qa.id)
        assert await conny.departments() == ["ENG", "QA", "NEW"]
        assert (await refusal(conny.create_department(group.de, "TOP"))).reason == "ENTITY_NOT_FOUND"
        assert (
            await refusal(conny.create_department(group.de, "X", parent_id=group.hr.id))
        ).reason == "DEPARTMENT_NOT_FOUND"
        elsewhere = await refusal(conny.create_department(group.fr, "X", parent_id=group.eng.id))
        assert elsewhere.reason == "DEPARTMENT_OF_OTHER_ENTITY"

    async def test_manager_can_read_but_not_write(self, group: Group, confined: Callable[..., EntitiesApi]) -> None:
        manager = confined("department_manager", department_scope=[group.eng.id])
        assert await manager.departments() == ["ENG", "QA"]
        assert (await refusal(manager.update_department(group.eng, name="X"))).reason == "PERMISSION_MISSING"
        assert (await refusal(manager.entities())).reason == "PERMISSION_MISSING"


class TestOtherScopes:
    async def test_entities_and_departments_are_combined(
        self, group: Group, confined: Callable[..., EntitiesApi]
    ) -> None:
        both = confined(entity_scope=[group.fr.id], department_scope=[group.qa.id])
        assert await both.entities() == ["FR"]
        assert await both.departments() == ["QA", "VENTES"]

    async def test_empty_scope_covers_nothing(self, group: Group, confined: Callable[..., EntitiesApi]) -> None:
        unknown = [ids.ENTITY.format(ids.new())]
        scopes: list[dict[str, list[str]]] = [{"entity_scope": []}, {"department_scope": []}, {"entity_scope": unknown}]
        for scope in scopes:
            nothing = confined(**scope)
            assert await nothing.entities() == []
            assert await nothing.departments() == []

    @pytest.mark.parametrize("scope", [{"entity_scope": ["DE"]}, {"department_scope": ["ent_" + "0" * 32]}])
    async def test_malformed_ids_make_a_token_invalid(
        self, scope: dict[str, list[str]], confined: Callable[..., EntitiesApi]
    ) -> None:
        error = await refusal(confined(**scope).entities())
        assert (error.code, error.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


class TestOtherTenant:
    async def test_finds_nothing(
        self, api: EntitiesApi, group: Group, api_for: Callable[[Caller], EntitiesApi], caller: Callable[..., Caller]
    ) -> None:
        other_tenant = api_for(caller("billing_admin", tenant=ids.new()))
        own = await other_tenant.create_entity("OWN")
        calls: list[Callable[[str, str], Coroutine[Any, Any, object]]] = [
            lambda entity, _: other_tenant.tree(entity),
            lambda entity, _: other_tenant.update(entity, tax_id="1"),
            lambda entity, _: other_tenant.deactivate(entity),
            lambda entity, _: other_tenant.create_entity("NEW", parent_id=entity),
            lambda entity, _: other_tenant.create_department(entity),
            lambda _, department: other_tenant.department(department),
            lambda _, department: other_tenant.update_department(department, name="X"),
            lambda _, department: other_tenant.create_department(own, parent_id=department),
        ]
        unknown_id, none = ids.ENTITY.format(ids.new()), ids.DEPARTMENT.format(ids.new())
        for call in calls:
            error, unknown = await refusal(call(group.de.id, group.eng.id)), await refusal(call(unknown_id, none))
            assert error.code == StatusCode.NOT_FOUND
            text = repr(error).replace(group.de.id, unknown_id).replace(group.eng.id, none)
            assert text == repr(unknown)
        assert await other_tenant.entities() == ["OWN"]
        assert await other_tenant.departments() == []
        assert await api.entities() == ["ROOT", "DE", "FR", "DE-SUB"]

    async def test_service_finds_only_data_of_the_tenant_of_its_call(
        self, group: Group, service_caller: Caller, api: EntitiesApi
    ) -> None:
        request = pb.GetEntitiesRequest(ids=[group.fr.id, ids.ENTITY.format(ids.new()), group.root.id])
        response = await service_caller.call(api.entities_stub.GetEntities, request)
        assert [entity.code for entity in response.entities] == ["ROOT", "FR"]


class TestResolveScope:
    async def test_includes_everything_below(self, group: Group, service_caller: Caller, api: EntitiesApi) -> None:
        async def covered(**named: list[str]) -> tuple[list[str], list[str]]:
            reply = await service_caller.call(api.entities_stub.ResolveScope, pb.ResolveScopeRequest(**named))
            return list(reply.entity_ids), list(reply.department_ids)

        of_de = [group.eng.id, group.qa.id, group.hr.id]
        assert await covered(entity_ids=[group.de.id]) == ([group.de.id, group.de_sub.id], of_de)
        assert await covered(entity_ids=[group.root.id, group.de.id]) == (
            [group.root.id, group.de.id, group.fr.id, group.de_sub.id],
            [*of_de, group.ventes.id],
        )
        assert await covered(department_ids=[group.eng.id]) == ([], [group.eng.id, group.qa.id])
        both = {"entity_ids": [group.fr.id], "department_ids": [group.qa.id]}
        assert await covered(**both) == ([group.fr.id], [group.qa.id, group.ventes.id])
        assert await covered() == ([], [])
        assert await covered(entity_ids=[ids.ENTITY.format(ids.new())]) == ([], [])

    async def test_only_services_can_call(self, api: EntitiesApi, caller: Callable[..., Caller]) -> None:
        request = pb.ResolveScopeRequest()
        for role in ("billing_admin", "service"):
            error = await refusal(caller(role).call(api.entities_stub.ResolveScope, request))
            assert (error.code, error.metadata) == (StatusCode.PERMISSION_DENIED, {"permission": "service"})
        get = departments_pb.GetDepartmentsRequest(ids=[ids.DEPARTMENT.format(ids.new())])
        error = await refusal(caller("billing_admin").call(api.departments_stub.GetDepartments, get))
        assert error.code == StatusCode.PERMISSION_DENIED
