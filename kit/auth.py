"""Who calls, and what they may do: JWT tokens, roles and scopes.

A key says which one algorithm it is for, `kid` is a look-up in our own key set and nothing else, and a role
that only services have is believed only from a token that a service key signed.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kit import ids
from kit.cache import TtlCache
from kit.errors import InvalidFields, TokenExpired, TokenInvalid, TokenMissing, Unavailable
from kit.settings import Settings
from kit.telemetry import log

ALGORITHMS = frozenset({"EdDSA", "ES256", "RS256"})
SERVICE_ISSUER = "enterprise-billing-services"
_SERVICE_TOKEN_S = 300
_TIME_LEFT_MIN_S = 60
_LEEWAY_S = 30
_TOKEN_BYTES_MAX = 8192
_CACHE_SIZE = 10_000
_CACHE_TTL_S = 300.0
_KEYS_REFRESH_S = 30.0
_KEYS_RETRY_S = 1.0
_KEYS_TTL_S = 300.0
"""How long a withdrawn key is still accepted; longer while its source can't be read."""

_RESOURCES = (
    "entities", "departments", "allocations", "contracts", "invoices", "rates", "budgets", "approvals", "disputes",
    "integrations", "webhooks", "reports", "dashboard", "operations",
)  # fmt: skip
_READ = {f"{resource}.read" for resource in _RESOURCES} - {"operations.read"}
_WRITE = {f"{resource}.write" for resource in _RESOURCES} - {"operations.write"}
_DO = {
    "contracts.sign", "budgets.charge", "approvals.request", "approvals.decide", "disputes.resolve",
    "integrations.sync",
}  # fmt: skip
_ADMIN = {"approvals.admin", "disputes.admin", "integrations.admin", "operations.read", "operations.write"}
_AUDIT = {"audit.read"}

ROLES: Mapping[str, frozenset[str]] = {
    "billing_admin": frozenset(_READ | _WRITE | _DO | _ADMIN | _AUDIT),
    "finance": frozenset((_READ | _WRITE | _DO | _AUDIT) - {"integrations.write"}),
    "procurement": frozenset({
        "contracts.read", "contracts.write", "contracts.sign", "approvals.request", "approvals.read", "budgets.read",
        "budgets.charge", "departments.read",
    }),
    "department_manager": frozenset({
        "departments.read", "allocations.read", "budgets.read", "budgets.charge", "approvals.read", "approvals.write",
        "approvals.request", "approvals.decide", "disputes.write",
    }),
    "approver": frozenset({"approvals.read", "approvals.decide", "budgets.read"}),
    "auditor": frozenset(_READ | _AUDIT),
    "viewer": frozenset(_READ),
    "service": frozenset({"service"}),
}  # fmt: skip
"""What each role may do."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The entities and departments a caller is confined to; a row is covered when one of the two names it."""

    entity_ids: frozenset[UUID] = frozenset()
    department_ids: frozenset[UUID] = frozenset()

    def covers(self, entity_id: UUID, department_id: UUID | None = None) -> bool:
        """Whether a row of this entity and department is covered."""
        return entity_id in self.entity_ids or department_id in self.department_ids


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as their verified token says."""

    tenant_id: UUID
    subject: str
    roles: tuple[str, ...]
    permissions: frozenset[str]
    entity_scope: tuple[str, ...] | None
    """Ids of the entities the caller is confined to, as the token has them; None: no such limit."""
    department_scope: tuple[str, ...] | None
    expires_at: float

    @property
    def confined(self) -> bool:
        """Whether the caller sees only a part of the tenant."""
        return self.entity_scope is not None or self.department_scope is not None


def bearer(authorization: str | None) -> str:
    """The token of an `Authorization` header; raises TokenMissing."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise TokenMissing
    return token


class _Keys:
    """The public keys of one issuer, by kid; read again for an unknown kid, but not at every stranger's call."""

    def __init__(self, source: str, issuer: str) -> None:
        self.issuer = issuer
        self._source = source
        self._keys: dict[str, jwt.PyJWK] = {}
        self._reading = asyncio.Lock()
        self._read = False
        self._again_at = self._stale_at = float("-inf")

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """The key; raises Unavailable where there is none of this kid and the key set can't be had."""
        if not self._wants(kid):
            return self._keys[kid]
        async with self._reading:
            if self._wants(kid) and time.monotonic() > self._again_at:
                await self._refresh()
        if kid not in self._keys and not self._read:
            raise Unavailable("The key set of the tokens' issuer")
        return self._keys.get(kid)

    def _wants(self, kid: str) -> bool:
        return kid not in self._keys or time.monotonic() > self._stale_at

    async def _refresh(self) -> None:
        try:
            self._keys = _read_keys(await self._fetch())
            self._read = True
            self._stale_at = time.monotonic() + _KEYS_TTL_S
        except (httpx.HTTPError, OSError, jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("no key set", source=self._source, error=repr(error)[:300])
            self._read = False
        self._again_at = time.monotonic() + (_KEYS_REFRESH_S if self._read else _KEYS_RETRY_S)

    async def _fetch(self) -> str:
        if not self._source.startswith(("https://", "http://")):
            return Path(self._source).read_text()  # noqa: ASYNC240 - a small local file, once
        async with httpx.AsyncClient(timeout=5.0) as client:
            answer = await client.get(self._source)
            return answer.raise_for_status().text


def _read_keys(text: str) -> dict[str, jwt.PyJWK]:
    keys = (jwt.PyJWK(key) for key in json.loads(text)["keys"] if key.get("alg") in ALGORITHMS and key.get("kid"))
    return {key.key_id: key for key in keys if key.key_id}


class Authenticator:
    """Verifies tokens; what was verified once is remembered for a few minutes, but not past its expiry."""

    def __init__(self, settings: Settings, *, cache_size: int = _CACHE_SIZE) -> None:
        self._audience = settings.audience
        self._users = _Keys(settings.jwks, settings.issuer)
        self._services = _Keys(settings.service_jwks, SERVICE_ISSUER)
        self._verified: TtlCache[str, Principal] = TtlCache(cache_size, _CACHE_TTL_S)

    async def authenticate(self, token: str) -> Principal:
        """The caller behind the token; raises TokenInvalid, TokenExpired, or Unavailable where no keys can be had."""
        principal = self._verified.get(token)
        if principal is None:
            principal = await self._verify(token)
            self._verified.set(token, principal)
        if principal.expires_at < time.time():
            self._verified.discard(token)
            raise TokenExpired
        return principal

    async def _verify(self, token: str) -> Principal:
        if len(token) > _TOKEN_BYTES_MAX:
            raise TokenInvalid
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
            keys = self._services if claimed == SERVICE_ISSUER else self._users
            key = await keys.find(str(header.get("kid", "")))
            if key is None or header.get("alg") != key.algorithm_name or "crit" in header or _foreign(header):
                raise TokenInvalid
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                issuer=keys.issuer,
                audience=self._audience,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
            return _principal(claims, by_service=keys is self._services)
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except (jwt.PyJWTError, InvalidFields, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise TokenInvalid from None


def _foreign(header: Mapping[str, object]) -> bool:
    """Whether it is another kind of token than an access token of ours."""
    return str(header.get("typ", "JWT")).lower() not in {"jwt", "at+jwt"}


def _principal(claims: Mapping[str, object], *, by_service: bool) -> Principal:
    roles = _texts(claims.get("roles", []))
    granted = [role for role in roles if role in ROLES and (role == "service") == by_service]
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= 128 or not subject.isprintable():  # noqa: PLR2004
        raise ValueError("sub")
    return Principal(
        tenant_id=ids.uuid_of(str(claims["tenant_id"])),
        subject=subject,
        roles=tuple(granted),
        permissions=frozenset().union(*(ROLES[role] for role in granted)),
        entity_scope=_ids(claims, "entity_scope", ids.ENTITY),
        department_scope=_ids(claims, "department_scope", ids.DEPARTMENT),
        expires_at=float(str(claims["exp"])) + _LEEWAY_S,
    )


def _ids(claims: Mapping[str, object], claim: str, kind: ids.Kind) -> tuple[str, ...] | None:
    return tuple(kind.format(kind.parse(text)) for text in _texts(claims[claim])) if claim in claims else None


def _texts(claim: object) -> tuple[str, ...]:
    if not isinstance(claim, list) or not all(isinstance(item, str) for item in claim):
        raise TypeError("a list of texts is wanted")
    return tuple(claim)


class ServiceTokens:
    """Tokens with which a service calls another one, on behalf of a tenant and whoever called it."""

    def __init__(self, settings: Settings) -> None:
        if settings.service_key is None:
            raise ValueError("BILLING_SERVICE_KEY must name this service's private key")
        key = load_pem_private_key(settings.service_key.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("BILLING_SERVICE_KEY must be an Ed25519 key")
        self._key = key
        self._service = settings.service
        self._audience = settings.audience
        self._tokens: TtlCache[UUID, str] = TtlCache(_CACHE_SIZE, _SERVICE_TOKEN_S - _TIME_LEFT_MIN_S)

    def token(self, tenant_id: UUID) -> str:
        """Return a token for the tenant that is valid for another minute at least."""
        token = self._tokens.get(tenant_id)
        if token is None:
            token = self._sign(tenant_id)
            self._tokens.set(tenant_id, token)
        return token

    def _sign(self, tenant_id: UUID) -> str:
        now = time.time()
        claims = {
            "iss": SERVICE_ISSUER,
            "aud": self._audience,
            "sub": f"service:{self._service}",
            "iat": int(now),
            "exp": int(now + _SERVICE_TOKEN_S),
            "jti": uuid4().hex,
            "tenant_id": str(tenant_id),
            "roles": ["service"],
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": f"service-{self._service}"})
