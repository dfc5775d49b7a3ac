"""Only valid tokens are accepted: of a known key, for our audience, not expired; all others are rejected as invalid."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from kit import auth
from kit.auth import ROLES, Authenticator, ServiceTokens, bearer_token
from kit.errors import PermissionMissing, ScopeMissing, TokenExpired, TokenInvalid, TokenMissing, Unavailable
from kit.settings import Settings
from tests.harness.observe import eventually
from tests.harness.tokens import AUDIENCE, ISSUER, KID, Keys, public_jwk
from tests.kit.bad_tokens import (
    BAD_CLAIMS,
    DEPARTMENT,
    EC_KEY,
    NOT_TOKENS,
    OTHER_KEY,
    RSA_KEY,
    TENANT,
    bad_headers,
    claims,
    forged,
)


@pytest.fixture(scope="module")
def auth_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Keys of all three algorithms, one of an unsupported algorithm, and one without a kid."""
    keys = Keys.create(tmp_path_factory.mktemp("auth"))
    rsa_jwk = jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True)
    ec_jwk = jwt.algorithms.ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True)
    symmetric = {"kty": "oct", "k": "c2VjcmV0", "kid": "oct-1", "alg": "HS256"}
    known = [
        public_jwk(keys.users, KID), {**rsa_jwk, "kid": "rsa-1", "alg": "RS256"},
        {**ec_jwk, "kid": "ec-1", "alg": "ES256"}, symmetric,
        {**rsa_jwk, "alg": "RS256"}, {**rsa_jwk, "kid": "ps-1", "alg": "PS256"},
    ]  # fmt: skip
    keys.jwks.write_text(json.dumps({"keys": known}))
    return keys


@pytest.fixture(scope="module")
def auth_settings(auth_keys: Keys) -> Settings:
    return Settings(
        service="budgets", database_url="postgresql://nowhere", nats_url="nats://nowhere", page_key="x",
        issuer=ISSUER, audience=AUDIENCE, jwks=str(auth_keys.jwks), service_jwks=str(auth_keys.service_jwks),
        service_key=auth_keys.service_key("budgets"),
    )  # fmt: skip


@pytest.fixture
def authenticator(auth_settings: Settings) -> Authenticator:
    return Authenticator(auth_settings)


class TestVerification:
    async def test_a_valid_token_is_accepted(self, authenticator: Authenticator, auth_keys: Keys) -> None:
        for key, algorithm, kid in (
            (auth_keys.users, "EdDSA", KID),
            (RSA_KEY, "RS256", "rsa-1"),
            (EC_KEY, "ES256", "ec-1"),
        ):
            principal = await authenticator.authenticate(jwt.encode(claims(), key, algorithm, {"kid": kid}))
            assert (principal.tenant_id, principal.subject) == (TENANT, "alice")
            assert principal.permissions == ROLES["finance"]

    async def test_forged_headers_and_signatures_are_rejected(
        self, authenticator: Authenticator, auth_keys: Keys
    ) -> None:
        for name, token in bad_headers(auth_keys).items():
            assert await outcome(authenticator, token) is TokenInvalid, name

    @pytest.mark.parametrize("name", BAD_CLAIMS)
    async def test_invalid_claims_are_rejected(self, authenticator: Authenticator, auth_keys: Keys, name: str) -> None:
        token = forged({"alg": "EdDSA", "kid": KID}, claims(**BAD_CLAIMS[name]), auth_keys.users.sign)
        assert await outcome(authenticator, token) is TokenInvalid

    @pytest.mark.parametrize("name", NOT_TOKENS)
    async def test_malformed_tokens_are_rejected(self, authenticator: Authenticator, name: str) -> None:
        assert await outcome(authenticator, NOT_TOKENS[name]) is TokenInvalid

    async def test_a_signed_token_that_is_too_long_is_rejected(
        self, authenticator: Authenticator, auth_keys: Keys
    ) -> None:
        token = forged({"alg": "EdDSA", "kid": KID}, claims(padding="x" * 8192), auth_keys.users.sign)
        assert await outcome(authenticator, token) is TokenInvalid

    @pytest.mark.parametrize("ago", [31, 3600, 10**9])
    async def test_an_expired_token_is_reported_as_expired(
        self, authenticator: Authenticator, auth_keys: Keys, ago: int
    ) -> None:
        now = int(time.time())
        token = forged({"alg": "EdDSA", "kid": KID}, claims(iat=now - ago - 60, exp=now - ago), auth_keys.users.sign)
        assert await outcome(authenticator, token) is TokenExpired

    async def test_an_expired_forged_token_is_reported_as_invalid(self, authenticator: Authenticator) -> None:
        token = forged({"alg": "EdDSA", "kid": KID}, claims(exp=1), OTHER_KEY.sign)
        assert await outcome(authenticator, token) is TokenInvalid

    @given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){2}", fullmatch=True))
    async def test_any_text_is_rejected_without_another_error(self, auth_settings: Settings, token: str) -> None:
        assert await outcome(Authenticator(auth_settings), token) is TokenInvalid


async def outcome(authenticator: Authenticator, token: str) -> type[BaseException] | None:
    try:
        await authenticator.authenticate(token)
    except BaseException as refused:  # noqa: BLE001 - the test compares its type
        return type(refused)
    return None


class TestCache:
    async def test_a_cached_token_still_expires(
        self, authenticator: Authenticator, auth_keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = auth_keys.token(TENANT)
        await authenticator.authenticate(token)
        later = time.time() + 600 + 31
        monkeypatch.setattr(time, "time", lambda: later)
        assert await outcome(authenticator, token) is TokenExpired
        assert await outcome(authenticator, token) is TokenExpired

    async def test_the_cache_is_bounded(self, auth_settings: Settings, auth_keys: Keys) -> None:
        authenticator = Authenticator(auth_settings, cache_size=3)
        for number in range(10):
            await authenticator.authenticate(auth_keys.token(TENANT, subject=f"user-{number}"))
        assert len(authenticator._verified) <= 3

    async def test_rejected_tokens_are_not_cached(self, authenticator: Authenticator) -> None:
        await outcome(authenticator, "a.b.c")
        assert not authenticator._verified


class TestRoles:
    async def principal(self, authenticator: Authenticator, token: str) -> auth.Principal:
        return await authenticator.authenticate(token)

    async def test_permissions_of_several_roles_add_up(self, authenticator: Authenticator, auth_keys: Keys) -> None:
        principal = await self.principal(authenticator, auth_keys.token(TENANT, role=["approver", "viewer"]))
        assert principal.permissions == ROLES["approver"] | ROLES["viewer"]

    async def test_an_unknown_role_grants_nothing(self, authenticator: Authenticator, auth_keys: Keys) -> None:
        principal = await self.principal(authenticator, auth_keys.token(TENANT, role=["root", "__class__"]))
        assert principal.permissions == frozenset()
        assert principal.roles == ()

    async def test_the_service_role_in_a_user_token_grants_nothing(
        self, authenticator: Authenticator, auth_keys: Keys
    ) -> None:
        principal = await self.principal(authenticator, auth_keys.token(TENANT, role=["service", "viewer"]))
        assert principal.permissions == ROLES["viewer"]

    async def test_a_service_token_has_the_service_permission(
        self, authenticator: Authenticator, auth_settings: Settings
    ) -> None:
        principal = await self.principal(authenticator, ServiceTokens(auth_settings).token(TENANT))
        assert principal.permissions == {"service"}
        assert (principal.tenant_id, principal.subject) == (TENANT, "service:budgets")

    async def test_user_roles_in_a_service_token_grant_nothing(
        self, authenticator: Authenticator, auth_keys: Keys
    ) -> None:
        key = load_pem_private_key(auth_keys.service_key("budgets").read_bytes(), None)
        made = claims(iss=auth.SERVICE_ISSUER, sub="service:budgets", roles=["billing_admin"])
        token = jwt.encode(made, key, "EdDSA", {"kid": "service-budgets"})  # type: ignore[arg-type]  # an Ed25519 key
        assert (await self.principal(authenticator, token)).permissions == frozenset()

    @pytest.mark.parametrize("subject", ["service:approvals", "alice", "budgets", "service:budgets2", "service:"])
    async def test_a_key_of_a_service_signs_for_that_service_only(
        self, authenticator: Authenticator, auth_keys: Keys, subject: str
    ) -> None:
        own = auth_keys.service_token("budgets", TENANT)
        assert (await self.principal(authenticator, own)).service == "budgets"
        assert await outcome(authenticator, auth_keys.service_token("budgets", TENANT, sub=subject)) is TokenInvalid

    async def test_a_successor_of_the_key_of_a_service_is_accepted(
        self, auth_settings: Settings, auth_keys: Keys, tmp_path: Path
    ) -> None:
        key_set, pem = tmp_path / "services.json", tmp_path / "next.pem"
        pem.write_bytes(OTHER_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        known = json.loads(auth_keys.service_jwks.read_text())["keys"]
        key_set.write_text(json.dumps({"keys": [*known, public_jwk(OTHER_KEY, "service-budgets.2")]}))
        rotated = auth_settings.model_copy(update={"service_key": pem, "service_kid": "service-budgets.2"})
        verifying = Authenticator(auth_settings.model_copy(update={"service_jwks": str(key_set)}))
        for settings in (auth_settings, rotated):
            assert (await verifying.authenticate(ServiceTokens(settings).token(TENANT))).service == "budgets"

    async def test_scopes_are_read_from_the_token(self, authenticator: Authenticator, auth_keys: Keys) -> None:
        free = await self.principal(authenticator, auth_keys.token(TENANT))
        narrow = await self.principal(authenticator, auth_keys.token(TENANT, entity_scope=[]))
        named = await self.principal(authenticator, auth_keys.token(TENANT, department_scope=[DEPARTMENT]))
        assert not free.confined
        assert narrow.confined
        assert narrow.entity_scope == ()
        assert named.department_scope == (DEPARTMENT,)

    async def test_a_department_manager_without_a_scope_has_no_permissions(
        self, authenticator: Authenticator, auth_keys: Keys
    ) -> None:
        unscoped = await self.principal(authenticator, auth_keys.token(TENANT, role="department_manager"))
        assert (unscoped.roles, unscoped.permissions) == ((), frozenset())
        assert unscoped.inactive_roles == ("department_manager",)
        with pytest.raises(ScopeMissing) as refused:
            unscoped.check_permission("budgets.read")
        assert refused.value.metadata == {"permission": "budgets.read", "role": "department_manager"}
        with pytest.raises(PermissionMissing):
            unscoped.check_permission("budgets.write")

    async def test_other_roles_of_a_department_manager_without_a_scope_apply(
        self, authenticator: Authenticator, auth_keys: Keys
    ) -> None:
        roles = ["department_manager", "approver"]
        unscoped = await self.principal(authenticator, auth_keys.token(TENANT, role=roles))
        assert (unscoped.roles, unscoped.permissions) == (("approver",), ROLES["approver"])
        scoped = await self.principal(authenticator, auth_keys.token(TENANT, role=roles, department_scope=[]))
        assert scoped.permissions == ROLES["approver"] | ROLES["department_manager"]

    def test_permissions_of_roles_are_as_documented(self) -> None:
        everything = ROLES["billing_admin"]
        reads = {permission for permission in everything if permission.endswith(".read")}
        assert {permission for permission in ROLES["finance"] if permission.endswith(".admin")} == set()
        assert "integrations.write" not in ROLES["finance"]
        assert ROLES["viewer"] < ROLES["auditor"] <= reads | {"audit.read", "approvals.comment"}
        assert ROLES["auditor"] - ROLES["viewer"] == {"audit.read"}
        assert all("service" not in granted for role, granted in ROLES.items() if role != "service")


class TestBearer:
    @pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "abc", "bearerabc"])
    def test_a_header_without_a_token_is_rejected(self, header: str | None) -> None:
        with pytest.raises(TokenMissing):
            bearer_token(header)

    @pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "BEARER abc"])
    def test_the_scheme_is_case_insensitive(self, header: str) -> None:
        assert bearer_token(header) == "abc"


class TestKeySet:
    async def test_a_new_key_is_loaded(self, auth_settings: Settings, tmp_path: Path) -> None:
        jwks = tmp_path / "jwks.json"
        jwks.write_text('{"keys": []}')
        authenticator = Authenticator(auth_settings.model_copy(update={"jwks": str(jwks)}), keys_refresh_s=-1.0)
        token = jwt.encode(claims(), OTHER_KEY, "EdDSA", {"kid": "new"})
        assert await outcome(authenticator, token) is TokenInvalid
        jwks.write_text(json.dumps({"keys": [public_jwk(OTHER_KEY, "new")]}))
        assert await outcome(authenticator, token) is None

    async def test_a_withdrawn_key_is_accepted_until_the_key_set_is_stale(
        self, auth_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jwks = tmp_path / "jwks.json"
        jwks.write_text(json.dumps({"keys": [public_jwk(OTHER_KEY, "leaked")]}))
        authenticator = Authenticator(auth_settings.model_copy(update={"jwks": str(jwks)}))
        token = jwt.encode(claims(), OTHER_KEY, "EdDSA", {"kid": "leaked"})
        assert await outcome(authenticator, token) is None
        jwks.write_text('{"keys": []}')
        assert await outcome(authenticator, token) is None
        later = time.monotonic() + 301
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert await outcome(authenticator, token) is TokenInvalid

    @pytest.mark.parametrize("source", ["/nowhere/jwks.json", "http://127.0.0.1:1/jwks.json"])
    async def test_tokens_are_not_invalid_while_the_key_set_is_unavailable(
        self, auth_settings: Settings, source: str
    ) -> None:
        authenticator = Authenticator(auth_settings.model_copy(update={"jwks": source}))
        for _ in range(3):
            assert await outcome(authenticator, jwt.encode(claims(), OTHER_KEY, "EdDSA", {"kid": "x"})) is Unavailable

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"keys": 1}', '{"keys": [1]}', '{"keys": [{"alg": "EdDSA", "kid": "x"}]}']
    )
    async def test_an_invalid_key_set_counts_as_unavailable(
        self, auth_settings: Settings, tmp_path: Path, text: str
    ) -> None:
        jwks = tmp_path / "jwks.json"
        jwks.write_text(text)
        authenticator = Authenticator(auth_settings.model_copy(update={"jwks": str(jwks)}))
        token = jwt.encode(claims(), OTHER_KEY, "EdDSA", {"kid": "x"})
        assert await outcome(authenticator, token) is Unavailable

    @pytest.fixture
    def fetched(self, monkeypatch: pytest.MonkeyPatch, auth_keys: Keys) -> list[str]:
        """URLs that were fetched; each one returns the key set."""
        urls: list[str] = []

        def respond(request: httpx.Request) -> httpx.Response:
            urls.append(str(request.url))
            return httpx.Response(200, text=auth_keys.jwks.read_text())

        client = httpx.AsyncClient
        monkeypatch.setattr(
            httpx, "AsyncClient", lambda **options: client(transport=httpx.MockTransport(respond), **options)
        )
        return urls

    async def test_unknown_kids_do_not_fetch_the_key_set_repeatedly(
        self, auth_settings: Settings, auth_keys: Keys, fetched: list[str]
    ) -> None:
        authenticator = Authenticator(auth_settings.model_copy(update={"jwks": "https://identity.test/jwks.json"}))
        assert await outcome(authenticator, auth_keys.token(UUID(int=1))) is None
        for number in range(20):
            token = jwt.encode(claims(), OTHER_KEY, "EdDSA", {"kid": f"unknown-{number}"})
            assert await outcome(authenticator, token) is TokenInvalid
        assert fetched == ["https://identity.test/jwks.json"]


class HangingIssuer:
    """An HTTP server of a key set that does not respond while `responds` is unset."""

    def __init__(self, key_set: bytes) -> None:
        self.key_set, self.responds, self.requests = key_set, asyncio.Event(), 0
        self.responds.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(self.key_set)}\r\nconnection: close\r\n\r\n"
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            await self.responds.wait()
            writer.write(head.encode() + self.key_set)
            await writer.drain()


class TestHangingSource:
    @pytest.fixture
    async def issuer(self, auth_keys: Keys) -> AsyncIterator[tuple[HangingIssuer, str]]:
        issuer = HangingIssuer(auth_keys.jwks.read_bytes())
        server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0)
        yield issuer, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
        issuer.responds.set()
        server.close()
        await server.wait_closed()  # also for the connections of clients that gave up

    async def test_new_tokens_of_known_keys_are_not_stalled(
        self,
        auth_settings: Settings,
        auth_keys: Keys,
        issuer: tuple[HangingIssuer, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        source, url = issuer
        authenticator = Authenticator(auth_settings.model_copy(update={"jwks": url}))
        assert await outcome(authenticator, auth_keys.token(TENANT)) is None
        source.responds.clear()
        offset, monotonic = 301.0, time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + offset)
        seconds = []
        for number in range(20):
            started = monotonic()
            assert await outcome(authenticator, auth_keys.token(TENANT, subject=f"user-{number}")) is None
            seconds.append(monotonic() - started)
        assert sum(seconds) < 1.0  # only the first one waits, for a quarter of a second

        async def is_loading_again() -> bool:
            return source.requests == 2

        await eventually(is_loading_again)
        offset += 24 * 3600
        assert await outcome(authenticator, auth_keys.token(TENANT, subject="late")) is Unavailable

    async def test_an_unknown_key_waits_for_two_seconds_at_most(
        self, auth_settings: Settings, auth_keys: Keys, issuer: tuple[HangingIssuer, str]
    ) -> None:
        source, url = issuer
        source.responds.clear()
        authenticator = Authenticator(auth_settings.model_copy(update={"jwks": url}))
        started = time.monotonic()
        tokens = [auth_keys.token(TENANT, subject=f"user-{number}") for number in range(5)]
        assert set(await asyncio.gather(*(outcome(authenticator, token) for token in tokens))) == {Unavailable}
        assert time.monotonic() - started < 4.0
        assert source.requests == 1

    async def test_a_key_set_without_end_is_not_read(
        self, auth_settings: Settings, auth_keys: Keys, issuer: tuple[HangingIssuer, str]
    ) -> None:
        issuer[0].key_set = b" " * (2 * 1024 * 1024)
        authenticator = Authenticator(auth_settings.model_copy(update={"jwks": issuer[1]}))
        assert await outcome(authenticator, auth_keys.token(TENANT)) is Unavailable


class TestServiceTokens:
    def test_a_token_is_reused_while_it_is_valid_for_a_minute(
        self, auth_settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens, later = ServiceTokens(auth_settings), time.monotonic() + 241
        first = tokens.token(TENANT)
        assert tokens.token(TENANT) == first
        assert tokens.token(uuid4()) != first
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert tokens.token(TENANT) != first

    def test_a_private_key_is_required(self, auth_settings: Settings) -> None:
        with pytest.raises(ValueError, match="BILLING_SERVICE_KEY"):
            ServiceTokens(auth_settings.model_copy(update={"service_key": None}))
