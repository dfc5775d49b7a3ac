"""Invalid tokens of every known class of attack."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kit import auth, ids
from tests.harness.tokens import AUDIENCE, ISSUER, KID, Keys, public_jwk

TENANT = uuid4()
DEPARTMENT = ids.DEPARTMENT.format(ids.new())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = Ed25519PrivateKey.generate()


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    given = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600, "tenant_id": str(TENANT),
        "roles": ["finance"],
    } | changed  # fmt: skip
    return {name: value for name, value in given.items() if value is not ...}


def b64(raw: bytes | str) -> str:
    return base64.urlsafe_b64encode(raw.encode() if isinstance(raw, str) else raw).rstrip(b"=").decode()


def forged(header: object, payload: object, sign: Callable[[bytes], bytes]) -> str:
    """Return a token with any header and payload; a library would refuse to make it."""
    parts = [b64(part if isinstance(part, str) else json.dumps(part)) for part in (header, payload)]
    return ".".join([*parts, b64(sign(".".join(parts).encode()))])


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda signed: hmac.digest(secret, signed, hashlib.sha256)


def bad_headers(keys: Keys) -> Mapping[str, str]:
    """Tokens with a forged header or signature."""
    users = keys.users
    raw_public = users.public_key().public_bytes_raw()
    header = {"alg": "EdDSA", "kid": KID, "typ": "JWT"}
    attacker = public_jwk(OTHER_KEY, KID)
    good = forged(header, claims(), users.sign)

    def with_header(sign: Callable[[bytes], bytes] = users.sign, **changed: object) -> str:
        changed_header = {name: value for name, value in ({**header, **changed}).items() if value is not ...}
        return forged(changed_header, claims(), sign)

    return {
        "alg none": with_header(lambda _: b"", alg="none"),
        "alg None": with_header(lambda _: b"", alg="None"),
        "alg nOnE, signed": with_header(alg="nOnE"),
        "alg missing": with_header(alg=...),
        "alg empty": with_header(alg=""),
        "alg a number": with_header(alg=1),
        "alg a list": with_header(alg=["EdDSA"]),
        "alg of another case": with_header(alg="eddsa"),
        "alg of another curve": with_header(alg="Ed448"),
        "HS256 with the Ed25519 public key": with_header(hs256(raw_public), alg="HS256"),
        "HS256 with the Ed25519 PEM": with_header(hs256(public_pem(users)), alg="HS256"),
        "HS256 with the RSA PEM": with_header(hs256(public_pem(RSA_KEY)), alg="HS256", kid="rsa-1"),
        "HS256 with the EC PEM": with_header(hs256(public_pem(EC_KEY)), alg="HS256", kid="ec-1"),
        "HS256 with the key set": with_header(hs256(keys.jwks.read_bytes()), alg="HS256"),
        "HS256 with an empty secret": with_header(hs256(b""), alg="HS256"),
        "HS256 with a symmetric key in the set": with_header(hs256(b"secret"), alg="HS256", kid="oct-1"),
        "RS256 named on the Ed25519 key": with_header(alg="RS256"),
        "PS256 on the RS256 key": jwt.encode(claims(), RSA_KEY, "PS256", {"kid": "rsa-1"}),
        "RS512 on the RS256 key": jwt.encode(claims(), RSA_KEY, "RS512", {"kid": "rsa-1"}),
        "a key of an algorithm not taken": jwt.encode(claims(), RSA_KEY, "PS256", {"kid": "ps-1"}),
        "the right kid on the wrong key": jwt.encode(claims(), OTHER_KEY, "EdDSA", {"kid": KID}),
        "kid missing": with_header(kid=...),
        "kid empty": with_header(kid=""),
        "kid null": with_header(kid=None),
        "kid unknown": with_header(kid="users-2"),
        "kid a number": with_header(kid=1),
        "kid an object": with_header(kid={"kid": KID}),
        "kid a list": with_header(kid=[KID]),
        "kid a path": with_header(hs256(b""), alg="HS256", kid="../../../../../../dev/null"),
        "kid a file url": with_header(kid=f"file://{keys.jwks}"),
        "kid SQL": with_header(kid="x' union select 'key"),
        "kid of a service's key": with_header(kid="service-budgets"),
        "kid with other case": with_header(kid=KID.upper()),
        "kid with space": with_header(kid=KID + " "),
        "jwk in the header": with_header(OTHER_KEY.sign, jwk=attacker),
        "jwk in the header, other kid": with_header(OTHER_KEY.sign, jwk=attacker, kid="mine"),
        "jku in the header": with_header(OTHER_KEY.sign, jku="http://127.0.0.1:1/jwks.json", kid="mine"),
        "x5u in the header": with_header(OTHER_KEY.sign, x5u="http://127.0.0.1:1/cert.pem", kid="mine"),
        "x5c in the header": with_header(OTHER_KEY.sign, x5c=[b64("certificate")]),
        "crit unknown": with_header(crit=["exp"]),
        "crit b64": with_header(crit=["b64"], b64=False),
        "crit empty": with_header(crit=[]),
        "crit null": with_header(crit=None),
        "typ of an id token": with_header(typ="id+jwt"),
        "typ of a logout token": with_header(typ="logout+jwt"),
        "typ of a proof": with_header(typ="dpop+jwt"),
        "typ a number": with_header(typ=1),
        "signature missing": good.rpartition(".")[0] + ".",
        "signature cut": good[:-4],
        "signature of something else": good.rpartition(".")[0] + "." + b64(users.sign(b"something else")),
        "signature of zeros": with_header(lambda _: bytes(64)),
        "payload changed": swapped(good, claims(roles=["billing_admin"])),
    }


def swapped(token: str, payload: object) -> str:
    header, _, signature = token.split(".")
    return ".".join((header, b64(json.dumps(payload)), signature))


BAD_CLAIMS: Mapping[str, dict[str, Any]] = {
    "aud of another": {"aud": "another-service"},
    "aud a longer one": {"aud": AUDIENCE + "-2"},
    "aud an empty list": {"aud": []},
    "aud a number": {"aud": 1},
    "aud missing": {"aud": ...},
    "iss of another": {"iss": "https://elsewhere.test"},
    "iss a longer one": {"iss": ISSUER + ".attacker.test"},
    "iss a shorter one": {"iss": ISSUER[:-1]},
    "iss a list": {"iss": [ISSUER]},
    "iss missing": {"iss": ...},
    "iss of our services": {"iss": auth.SERVICE_ISSUER},
    "sub missing": {"sub": ...},
    "sub empty": {"sub": ""},
    "sub a number": {"sub": 1},
    "sub too long": {"sub": "a" * 129},
    "sub with a NUL": {"sub": "ali\0ce"},
    "sub with a line break": {"sub": "alice\nadmin"},
    "exp missing": {"exp": ...},
    "exp null": {"exp": None},
    "exp no number": {"exp": "soon"},
    "exp a list": {"exp": [1]},
    "exp not a number": {"exp": float("nan")},
    "exp never": {"exp": float("inf")},
    "iat missing": {"iat": ...},
    "iat no number": {"iat": "x"},
    "iat to come": {"iat": time.time() + 3600},
    "nbf to come": {"nbf": time.time() + 3600},
    "nbf no number": {"nbf": "x"},
    "tenant missing": {"tenant_id": ...},
    "tenant empty": {"tenant_id": ""},
    "tenant no UUID": {"tenant_id": "acme"},
    "tenant a list": {"tenant_id": [str(TENANT)]},
    "tenant null": {"tenant_id": None},
    "tenant a number": {"tenant_id": 12345678901234567890123456789012},
    "tenant with braces": {"tenant_id": f"{{{TENANT}}}"},
    "tenant a URN": {"tenant_id": f"urn:uuid:{TENANT}"},
    "sub of a service": {"sub": "service:budgets"},
    "roles a text": {"roles": "finance"},
    "roles an object": {"roles": {"finance": True}},
    "roles of numbers": {"roles": [1]},
    "roles null": {"roles": None},
    "entity scope a text": {"entity_scope": "ent_1"},
    "entity scope null": {"entity_scope": None},
    "entity scope of numbers": {"entity_scope": [1]},
    "entity scope of no ids": {"entity_scope": ["acme"]},
    "entity scope of another kind": {"entity_scope": [DEPARTMENT]},
    "department scope an object": {"department_scope": {}},
    "department scope with one bad id": {"department_scope": [DEPARTMENT, "dep_1"]},
}

NOT_TOKENS: Mapping[str, str] = {
    "nothing": "",
    "a word": "token",
    "two parts": "a.b",
    "four parts": "a.b.c.d",
    "five parts, encrypted": "a.b.c.d.e",
    "only points": "..",
    "not base64": "!.!.!",
    "header a number": forged("1", claims(), lambda _: b""),
    "header a list": forged("[]", claims(), lambda _: b""),
    "header no JSON": forged("{", claims(), lambda _: b""),
    "header deep": forged("[" * 3000, claims(), lambda _: b""),
    "payload a list": forged({"alg": "EdDSA", "kid": KID}, "[]", lambda _: b""),
    "payload no JSON": forged({"alg": "EdDSA", "kid": KID}, "nothing", lambda _: b""),
    "payload deep": forged({"alg": "EdDSA", "kid": KID}, '{"a":' * 900, lambda _: b""),
    "letters of another script": "ä.ö.ü",
    "half a character": "\ud800.a.b",
    "a NUL": "\0.\0.\0",
    "oversized": "a" * 100_000,
}
