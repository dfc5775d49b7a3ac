"""Authentication and authorization: JWT tokens, roles and scopes.

The algorithm is determined by the key, never by the token. `kid` is only looked up in our own key sets. The role
`service` is accepted only in tokens that are signed with a service key.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kit import ids
from kit.cache import TtlCache
from kit.errors import (
    InvalidFields,
    PermissionMissing,
    ScopeMissing,
    TokenExpired,
    TokenInvalid,
    TokenMissing,
)
from kit.key_sets import REFRESH_S, KeySet
from kit.settings import Settings

SERVICE_ISSUER = "enterprise-billing-services"
SERVICE_PREFIX = "service:"
"""Prefix of the subject of a service: "service:budgets"."""
_SERVICE_TOKEN_S = 300
_TIME_LEFT_MIN_S = 60
_LEEWAY_S = 30
_TOKEN_BYTES_MAX = 8192
_CACHE_SIZE = 10_000
_CACHE_TTL_S = 300.0
_UUID = re.compile("[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")

_RESOURCES = (
    "entities", "departments", "allocations", "contracts", "invoices", "rates", "budgets", "approvals", "disputes",
    "integrations", "webhooks", "reports", "dashboard", "operations",
)  # fmt: skip
_READ = {f"{resource}.read" for resource in _RESOURCES} - {"operations.read"}
_WRITE = {f"{resource}.write" for resource in _RESOURCES} - {"operations.write"}
_OTHER = {
    "contracts.sign", "budgets.charge", "approvals.request", "approvals.decide", "approvals.comment",
    "disputes.resolve", "integrations.sync",
}  # fmt: skip
_ADMIN = {"approvals.admin", "disputes.admin", "integrations.admin", "operations.read", "operations.write"}
_AUDIT = {"audit.read"}

ROLES: Mapping[str, frozenset[str]] = {
    "billing_admin": frozenset(_READ | _WRITE | _OTHER | _ADMIN | _AUDIT),
    "finance": frozenset((_READ | _WRITE | _OTHER | _AUDIT) - {"integrations.write"}),
    "procurement": frozenset({
        "contracts.read", "contracts.write", "contracts.sign", "approvals.request", "approvals.read",
        "approvals.comment", "budgets.read", "budgets.charge", "departments.read",
    }),
    "department_manager": frozenset({
        "departments.read", "allocations.read", "budgets.read", "budgets.charge", "approvals.read", "approvals.write",
        "approvals.request", "approvals.decide", "approvals.comment", "disputes.write",
    }),
    "approver": frozenset({"approvals.read", "approvals.decide", "approvals.comment", "budgets.read"}),
    "auditor": frozenset(_READ | _AUDIT | {"approvals.comment"}),
    "viewer": frozenset(_READ | {"approvals.comment"}),
    "service": frozenset({"service"}),
}  # fmt: skip
"""Permissions of each role."""
CONFINED_ROLES = frozenset({"department_manager"})
"""Roles that apply only within a scope: without `entity_scope` and `department_scope` they grant nothing."""
INTERNAL = "service"
"""Permission of the RPCs that only our own services call."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The entities and departments to which a caller is confined. It covers the rows of any of them."""

    entity_ids: frozenset[UUID] = frozenset()
    department_ids: frozenset[UUID] = frozenset()

    def covers(self, entity_id: UUID, department_id: UUID | None = None) -> bool:
        """True if the scope covers a row of this entity and department."""
        return entity_id in self.entity_ids or department_id in self.department_ids


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, from a verified token."""

    tenant_id: UUID
    subject: str
    roles: tuple[str, ...]
    permissions: frozenset[str]
    entity_scope: tuple[str, ...] | None
    """Ids of the entities to which the token confines the caller; None if it does not."""
    department_scope: tuple[str, ...] | None
    expires_at: float
    inactive_roles: tuple[str, ...] = ()
    """Roles of the token that grant nothing, because they need a scope and the token has none."""

    @property
    def confined(self) -> bool:
        """True if the caller may see only a part of the tenant."""
        return self.entity_scope is not None or self.department_scope is not None

    @property
    def service(self) -> str:
        """Name of the calling service; empty for a user."""
        return self.subject.removeprefix(SERVICE_PREFIX) if INTERNAL in self.permissions else ""

    def check_permission(self, permission: str) -> None:
        """Raise an error if no role of the caller grants the permission.

        Raises ScopeMissing if a role would grant it with a scope, else PermissionMissing.
        """
        if permission in self.permissions:
            return
        for role in self.inactive_roles:
            if permission in ROLES[role]:
                raise ScopeMissing(permission, role)
        raise PermissionMissing(permission)


def bearer_token(authorization: str | None) -> str:
    """Return the token of an `Authorization` header. Raises TokenMissing."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise TokenMissing
    return token


class Authenticator:
    """Verifies tokens, and caches verified ones for a few minutes, but not beyond their expiry."""

    def __init__(self, settings: Settings, *, cache_size: int = _CACHE_SIZE, keys_refresh_s: float = REFRESH_S) -> None:
        self._audience = settings.audience
        self._users = KeySet(settings.jwks, settings.issuer, keys_refresh_s)
        self._services = KeySet(settings.service_jwks, SERVICE_ISSUER, keys_refresh_s)
        self._verified: TtlCache[str, Principal] = TtlCache(cache_size, _CACHE_TTL_S)

    async def authenticate(self, token: str) -> Principal:
        """Return the caller. Raises TokenInvalid, TokenExpired, or Unavailable if the keys can't be loaded."""
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
            raise TokenInvalid(f"The token is larger than {_TOKEN_BYTES_MAX} bytes.")
        try:
            header = jwt.get_unverified_header(token)
            claimed_issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            keys = self._services if claimed_issuer == SERVICE_ISSUER else self._users
            key = await keys.find(str(header.get("kid", "")))
            if key is None or header.get("alg") != key.algorithm_name or not _is_access_token(header):
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
            return _principal(claims, service=_service_of(str(header["kid"])) if keys is self._services else None)
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except (jwt.PyJWTError, InvalidFields, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise TokenInvalid from None


def _is_access_token(header: Mapping[str, object]) -> bool:
    """True for access tokens without critical extensions (`crit`); false for other types, such as logout tokens."""
    return str(header.get("typ", "JWT")).lower() in {"jwt", "at+jwt"} and "crit" not in header


def _service_of(kid: str) -> str:
    """Return the service whose key has this kid: "budgets" for "service-budgets" and for "service-budgets.2"."""
    return kid.removeprefix("service-").partition(".")[0]


def _principal(claims: Mapping[str, object], *, service: str | None) -> Principal:
    """Return the caller; `service` is the one whose key has signed the token, None for tokens of users."""
    by_service = service is not None
    roles = [role for role in _strings(claims.get("roles", [])) if role in ROLES and (role == "service") == by_service]
    subject, tenant_id = claims["sub"], claims["tenant_id"]
    if not isinstance(subject, str) or not 0 < len(subject) <= 128 or not subject.isprintable():  # noqa: PLR2004
        raise ValueError("sub")
    if (subject != SERVICE_PREFIX + service) if service is not None else subject.startswith(SERVICE_PREFIX):
        raise ValueError("sub")  # a key of a service signs for that service only, and no user is named like one
    if not isinstance(tenant_id, str) or not _UUID.fullmatch(tenant_id):
        raise ValueError("tenant_id")
    entities, departments = _ids(claims, "entity_scope", ids.ENTITY), _ids(claims, "department_scope", ids.DEPARTMENT)
    inactive = CONFINED_ROLES if entities is None and departments is None else frozenset()
    active = [role for role in roles if role not in inactive]
    return Principal(
        tenant_id=ids.uuid_of(tenant_id),
        subject=subject,
        roles=tuple(active),
        permissions=frozenset().union(*(ROLES[role] for role in active)),
        entity_scope=entities,
        department_scope=departments,
        expires_at=float(str(claims["exp"])) + _LEEWAY_S,
        inactive_roles=tuple(role for role in roles if role in inactive),
    )


def _ids(claims: Mapping[str, object], claim: str, kind: ids.Kind) -> tuple[str, ...] | None:
    return tuple(kind.format(kind.parse(text)) for text in _strings(claims[claim])) if claim in claims else None


def _strings(claim: object) -> tuple[str, ...]:
    if not isinstance(claim, list) or not all(isinstance(item, str) for item in claim):
        raise TypeError("not a list of strings")
    return tuple(claim)


class ServiceTokens:
    """Signs the tokens with which this service calls other services on behalf of a tenant."""

    def __init__(self, settings: Settings) -> None:
        if settings.service_key is None:
            raise ValueError("BILLING_SERVICE_KEY must name this service's private key")
        key = load_pem_private_key(settings.service_key.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("BILLING_SERVICE_KEY must be an Ed25519 key")
        self._key = key
        self._service = settings.service
        self._kid = settings.service_kid or f"service-{self._service}"
        self._audience = settings.audience
        self._tokens: TtlCache[UUID, str] = TtlCache(_CACHE_SIZE, _SERVICE_TOKEN_S - _TIME_LEFT_MIN_S)

    def token(self, tenant_id: UUID) -> str:
        """Return a token for the tenant that is valid for at least another minute."""
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
            "sub": SERVICE_PREFIX + self._service,
            "iat": int(now),
            "exp": int(now + _SERVICE_TOKEN_S),
            "jti": uuid4().hex,
            "tenant_id": str(tenant_id),
            "roles": ["service"],
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": self._kid})
