"""Signing keys of the user issuer and of our services, and tokens signed with them."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deploy.database import MIGRATIONS
from kit.auth import SERVICE_ISSUER

ISSUER = "https://identity.test"
AUDIENCE = "enterprise-billing"
KID = "users-1"
SERVICES = (*(service for service in MIGRATIONS if service != "gateway"), "disputes", "reporting")
"""Services with a key of their own: ours but the gateway, and those that internal RPCs name as callers."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a run, stored in a folder."""

    folder: Path
    users: Ed25519PrivateKey

    @classmethod
    def create(cls, folder: Path) -> "Keys":
        """Create a key for user tokens, one per service, and the public key sets."""
        users = Ed25519PrivateKey.generate()
        keys = cls(folder, users)
        keys.jwks.write_text(json.dumps({"keys": [public_jwk(users, KID)]}))
        services = {service: Ed25519PrivateKey.generate() for service in SERVICES}
        for service, key in services.items():
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            keys.service_key(service).write_bytes(pem)
        public = [public_jwk(key, f"service-{service}") for service, key in services.items()]
        keys.service_jwks.write_text(json.dumps({"keys": public}))
        return keys

    @property
    def jwks(self) -> Path:
        """File with the public keys of user tokens."""
        return self.folder / "jwks.json"

    @property
    def service_jwks(self) -> Path:
        """File with the public keys of service tokens."""
        return self.folder / "service-jwks.json"

    def service_key(self, service: str) -> Path:
        """Return the file with the private key of a service."""
        return self.folder / f"{service}.pem"

    def service_token(self, service: str, tenant_id: UUID, **claims: Any) -> str:
        """Return a token of a service, signed with its key."""
        now = int(time.time())
        payload = {
            "iss": SERVICE_ISSUER, "aud": AUDIENCE, "sub": f"service:{service}", "iat": now, "exp": now + 300,
            "tenant_id": str(tenant_id), "roles": ["service"],
        } | claims  # fmt: skip
        pem = self.service_key(service).read_text()
        return jwt.encode(payload, pem, algorithm="EdDSA", headers={"kid": f"service-{service}"})

    def token(
        self,
        tenant_id: UUID,
        *,
        role: str | Sequence[str] = "finance",
        subject: str = "alice",
        entity_scope: Sequence[str] | None = None,
        department_scope: Sequence[str] | None = None,
        **claims: Any,
    ) -> str:
        """Return a user token, valid for ten minutes; a claim of None is left out."""
        now = int(time.time())
        roles = [role] if isinstance(role, str) else list(role)
        all_claims = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 600,
            "tenant_id": str(tenant_id), "roles": roles,
            "entity_scope": None if entity_scope is None else list(entity_scope),
            "department_scope": None if department_scope is None else list(department_scope),
        } | claims  # fmt: skip
        payload = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode(payload, self.users, algorithm="EdDSA", headers={"kid": KID})


def public_jwk(key: Ed25519PrivateKey, kid: str) -> dict[str, str]:
    """Return the public key as a JWK."""
    fields: dict[str, str] = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**fields, "kid": kid, "alg": "EdDSA", "use": "sig"}
