"""Keys and tokens of the local stack, in place of an identity provider."""

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from deploy.local import home

if TYPE_CHECKING:  # cryptography takes 0.1 s to import, and usually all keys exist
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER: Final = "https://identity.local"
AUDIENCE: Final = "enterprise-billing"
TENANTS: Final = uuid.UUID("b1111111-7e4a-4c1e-9a55-0d5ec0de0001")
"""UUID namespace: the id of a tenant is derived from its short name."""

USERS_JWKS: Final = home.KEYS / "users.jwks.json"
SERVICES_JWKS: Final = home.KEYS / "services.jwks.json"
_USERS_KEY: Final = home.KEYS / "users.pem"
_USERS_KID: Final = "local-1"
_TOKEN_S: Final = 12 * 3600


def service_key(service: str) -> Path:
    """Return the file with the private key of a service."""
    return home.KEYS / f"service-{service}.pem"


def ensure(services: Sequence[str]) -> None:
    """Create missing keys and the public key sets."""
    expected = [_USERS_KID, *(f"service-{service}" for service in services)]
    if _kids(USERS_JWKS) + _kids(SERVICES_JWKS) == expected and all(
        service_key(service).exists() for service in services
    ):
        return
    _write_key_set(USERS_JWKS, [(_USERS_KID, _users_key())])
    _write_key_set(SERVICES_JWKS, [(f"service-{service}", _service_key(service)) for service in services])


def tenant_id(tenant: str) -> uuid.UUID:
    """Return the id of a tenant from its id or its short name."""
    try:
        return uuid.UUID(tenant)
    except ValueError:
        return uuid.uuid5(TENANTS, tenant)


def token(
    *,
    tenant: str = "acme",
    subject: str = "local-user",
    roles: Sequence[str] = ("billing_admin",),
    entity_scope: Sequence[str] | None = None,
    department_scope: Sequence[str] | None = None,
) -> str:
    """Return a user token, valid for twelve hours; without scopes the user sees the whole tenant."""
    import jwt

    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": now,
        "exp": now + _TOKEN_S,
        "jti": uuid.uuid4().hex,
        "tenant_id": str(tenant_id(tenant)),
        "roles": list(roles),
    }
    if entity_scope is not None:
        claims["entity_scope"] = list(entity_scope)
    if department_scope is not None:
        claims["department_scope"] = list(department_scope)
    return jwt.encode(claims, _users_key(), algorithm="ES256", headers={"kid": _USERS_KID, "typ": "JWT"})


def _users_key() -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = home.write_once(_USERS_KEY, lambda: _pem(ec.generate_private_key(ec.SECP256R1())))
    return cast("ec.EllipticCurvePrivateKey", load_pem_private_key(pem, password=None))


def _service_key(service: str) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = home.write_once(service_key(service), lambda: _pem(Ed25519PrivateKey.generate()))
    return cast("Ed25519PrivateKey", load_pem_private_key(pem, password=None))


def _pem(key: "EllipticCurvePrivateKey | Ed25519PrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _kids(key_set: Path) -> list[str]:
    return [key["kid"] for key in json.loads(key_set.read_bytes())["keys"]] if key_set.exists() else []


def _write_key_set(path: Path, keys: Iterable[tuple[str, "EllipticCurvePrivateKey | Ed25519PrivateKey"]]) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm

    public = []
    for kid, key in keys:
        if isinstance(key, Ed25519PrivateKey):
            jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"alg": "EdDSA"}
        else:
            jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"alg": "ES256"}
        public.append(jwk | {"kid": kid, "use": "sig"})
    home.write(path, json.dumps({"keys": public}, indent=2).encode())
