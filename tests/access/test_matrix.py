"""Every RPC with every id field and every kind of caller, from the descriptors: a new RPC is in it at once.

    owner                 an administrator of the tenant: the sample request is valid and finds its resources
    no permission         a token without roles
    anonymous, expired    no token, and one that has expired
    other tenant          an administrator of another tenant, and
    scoped                finance with a scope, and
    scoped administrator  billing_admin with a scope: the id of a resource that they may not see has the same outcome as
                          an id that does not exist
    service               tokens of services, of those that the RPC declares as callers, and of others

The calls run concurrently on one stack. Calls that are denied come first; then the resources are unchanged.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc import StatusCode

from contract.access import AccessRule, ScopePolicy
from kit import ids
from kit.auth import INTERNAL
from tests.access.requests import KEYS, all_methods, id_fields, new_request, with_id
from tests.access.world import Api, Outcome, World
from tests.harness.tokens import SERVICES, Keys

METHODS: Final = all_methods()
_CONCURRENT: Final = 24
KNOWN_OF_TENANT: Final = {
    ("AllocateCost", "counterparty_entity_id"): "the other company of an internal charge is outside of the scope",
    ("BatchAllocateCosts", "allocations.counterparty_entity_id"): "as above",
    ("CreateConsolidatedInvoice", "billing_profile_id"): "every invoice shows its issuer, which is one of the tenant",
    ("CreateInvoiceSchedule", "billing_profile_id"): "as above",
    ("UpdateInvoiceSchedule", "billing_profile_id"): "as above",
}
"""Fields with ids that exist for every caller of the tenant, whatever their scope, with the reason."""
_DENIED: Final = {StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED}
_USELESS: Final = {StatusCode.UNAUTHENTICATED, StatusCode.NOT_FOUND, StatusCode.INTERNAL}
_USELESS_REASONS: Final = {"INVALID_FIELDS", "PERMISSION_MISSING", "TENANT_SCOPE_REQUIRED"}
"""Outcomes of a sample request that does not test anything."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """A caller who may not see the resources of `world`, with resources of their own."""

    name: str
    own: World


Calls = Iterable[Awaitable[str | None]]


async def problems(calls: Calls) -> list[str]:
    """Run the checks with limited concurrency; return the descriptions of all violations."""
    slots = asyncio.Semaphore(_CONCURRENT)

    async def run(check: Awaitable[str | None]) -> str | None:
        async with slots:
            return await check

    return [violation for violation in await asyncio.gather(*map(run, calls)) if violation]


def expect(name: str, method: MethodDescriptor, outcome: Outcome, code: StatusCode, reason: str) -> str | None:
    if (outcome.code, outcome.reason) == (code, reason):
        return None
    return f"{name}: {method.full_name} was {outcome.code.name} {outcome.reason} {outcome.text[:200]}, not {reason}"


@pytest.fixture(scope="module")
async def strangers(api: Api, keys: Keys, world: World, access_tenant: UUID) -> list[Stranger]:
    """Callers of another tenant, and of another company of the same tenant, each with a world of their own."""
    other_token = keys.token(uuid4(), role="billing_admin", subject="other")
    other_tenant = await World.build(api, other_token, "otter")
    company = await World.build(api, keys.token(access_tenant, role="billing_admin", subject="owner-2"), "panda")
    result = [Stranger("other tenant", other_tenant)]
    entity, department = {"entity_scope": [company.ids["ent"]]}, {"department_scope": [company.ids["dep"]]}
    for name, role, scope in (
        ("scoped", "finance", entity),
        ("scoped administrator", "billing_admin", entity),
        ("scoped administrator of a department", "billing_admin", department),
    ):
        token = keys.token(access_tenant, role=role, subject="scoped", **scope)
        result.append(Stranger(name, World(token, company.marker, company.ids, company.keys)))
    return result


async def snapshot(api: Api, world: World) -> dict[str, str]:
    """Return the resources of a world as its owner reads them."""
    reads = [
        method for method in METHODS if method.name.startswith("Get") and AccessRule.of(method).permission != INTERNAL
    ]
    replies = {}
    for method in reads:
        request = new_request(method, world.ids, **_key(method, world))
        replies[method.name] = (await api.call(method, request, world.token)).text
    return replies


def _key(method: MethodDescriptor, world: World) -> dict[str, str]:
    return {KEYS[method.name]: world.keys[method.name]} if method.name in KEYS else {}


class TestDenied:
    async def test_anonymous_expired_and_callers_without_the_permission(
        self, api: Api, keys: Keys, world: World, access_tenant: UUID
    ) -> None:
        expired = keys.token(access_tenant, role="billing_admin", exp=1_700_000_000, iat=1_600_000_000)
        nobody = keys.token(access_tenant, role=[])
        admin = keys.token(access_tenant, role="billing_admin")
        cases = [
            ("anonymous", None, StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
            ("expired", expired, StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"),
            ("no permission", nobody, StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING"),
        ]

        async def check(method: MethodDescriptor, service: str, case: Any) -> str | None:
            name, token, code, reason = case
            outcome = await api.call(method, new_request(method, world.ids), token, service)
            return expect(name, method, outcome, code, reason)

        calls = [
            check(method, service, case) for method in METHODS for service in api.services(method) for case in cases
        ]
        internal = [method for method in METHODS if AccessRule.of(method).permission == INTERNAL]
        calls += [
            check(method, api.services(method)[0], ("administrator", admin, *cases[2][2:])) for method in internal
        ]
        assert not await problems(calls)

    async def test_services(self, api: Api, keys: Keys, world: World, access_tenant: UUID) -> None:
        async def check(method: MethodDescriptor, service: str) -> str | None:
            rule = AccessRule.of(method)
            outcome = await api.call(method, new_request(method, world.ids), keys.service_token(service, access_tenant))
            if rule.permission != INTERNAL:
                return expect(service, method, outcome, StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
            if service not in rule.callers:
                return expect(service, method, outcome, StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
            faulty = outcome.code in _DENIED or outcome.reason in {"INVALID_FIELDS", "INTERNAL"}
            return (
                f"{service}: {method.full_name} was {outcome}; see EXAMPLES in tests/access/requests.py"
                if faulty
                else None
            )

        assert not await problems(check(method, service) for method in METHODS for service in SERVICES)

    async def test_callers_with_a_scope_cannot_make_calls_about_the_whole_tenant(
        self, api: Api, strangers: list[Stranger]
    ) -> None:
        async def check(method: MethodDescriptor, stranger: Stranger) -> str | None:
            outcome = await api.call(method, new_request(method, stranger.own.ids), stranger.own.token)
            return expect(stranger.name, method, outcome, StatusCode.PERMISSION_DENIED, "TENANT_SCOPE_REQUIRED")

        methods = [each for each in METHODS if AccessRule.of(each).scope_policy is ScopePolicy.TENANT_ONLY]
        admins = [stranger for stranger in strangers if stranger.name.startswith("scoped administrator")]
        assert not await problems(check(method, stranger) for method in methods for stranger in admins)


class TestForeignIds:
    async def test_an_id_of_a_foreign_resource_is_like_one_that_does_not_exist(
        self, api: Api, world: World, strangers: list[Stranger]
    ) -> None:
        before = await snapshot(api, world)
        methods = [method for method in METHODS if AccessRule.of(method).permission != INTERNAL]
        checks = [
            _compare(api, world, stranger, method, path, world.ids[prefix], f"{prefix}_{ids.new().hex}")
            for method in methods
            for path, prefix in id_fields(method)
            for stranger in strangers
            if (method.name, path) not in KNOWN_OF_TENANT or stranger.name == "other tenant"
        ]
        checks += [
            _compare(api, world, stranger, method, KEYS[method.name], world.keys[method.name], uuid4().hex)
            for method in methods
            if method.name in KEYS
            for stranger in strangers
        ]
        assert len(checks) > 3 * len(methods)
        assert not await problems(checks)
        assert await snapshot(api, world) == before

    async def test_lists_and_streams_have_no_resources_of_others(
        self, api: Api, world: World, strangers: list[Stranger]
    ) -> None:
        async def check(method: MethodDescriptor, stranger: Stranger) -> str | None:
            outcome = await api.call(method, new_request(method, {}), stranger.own.token)
            shared = stranger.name != "other tenant" and AccessRule.of(method).scope_policy is ScopePolicy.SHARED
            leaked = world.marker in outcome.text and not shared
            return f"{stranger.name}: {method.full_name} contains resources of others" if leaked else None

        lists = [method for method in METHODS if method.name.startswith(("List", "Watch"))]
        assert not await problems(check(method, stranger) for method in lists for stranger in strangers)


async def _compare(
    api: Api, world: World, stranger: Stranger, method: MethodDescriptor, path: str, foreign: str, unknown: str
) -> str | None:
    outcomes = []
    for value in (foreign, unknown):
        request = with_id(new_request(method, stranger.own.ids, **_key(method, stranger.own)), path, value)
        outcomes.append(await api.call(method, request, stranger.own.token))
    of_foreign, of_unknown = outcomes
    label = f"{stranger.name}: {method.full_name} {path}"
    if of_foreign.without(foreign) != of_unknown.without(unknown):
        return f"{label}: foreign {of_foreign.without(foreign)} != unknown {of_unknown.without(unknown)}"
    if of_foreign.reason == "INTERNAL":
        return f"{label}: {of_foreign}"
    leaked = world.marker in of_foreign.text
    return f"{label}: the reply contains {world.marker}: {of_foreign.text[:300]}" if leaked else None


class TestOwner:
    """Last in the file: these calls change the resources."""

    @pytest.fixture
    def in_order(self) -> list[MethodDescriptor]:
        """Reads first, deletions last."""

        def rank(method: MethodDescriptor) -> int:
            read = method.name.startswith(("Get", "List", "Check", "Preview", "Forecast", "Verify", "Watch"))
            return 0 if read else 2 if method.name.startswith(("Delete", "Deactivate", "Close")) else 1

        return sorted(METHODS, key=rank)

    async def test_owner_finds_every_resource(self, api: Api, world: World, in_order: list[MethodDescriptor]) -> None:
        found = []
        for method in in_order:
            if AccessRule.of(method).permission == INTERNAL or "DeadLetter" in method.name:
                continue
            request = new_request(method, world.ids, **_key(method, world))
            outcome = await api.call(method, request, world.token)
            if outcome.code in _USELESS or outcome.reason in _USELESS_REASONS:
                found.append((method.full_name, outcome))
        assert not found, (
            f"{found}\nAn RPC needs a valid request that finds its resources: give it an example in its proto, or in"
            " EXAMPLES of tests/access/requests.py; SETUP in tests/access/world.py creates the resources."
        )
