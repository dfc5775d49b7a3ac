"""Seals numbers that count the events of all tenants, so that an id shows nothing of another tenant's activity."""

import hmac
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

_BLOCK_BYTES = 16
_PURPOSE = b"sealed numbers"


class Seal:
    """Converts numbers of one tenant to ids, and back.

    An id is one block of AES: the same number has the same id, the order of ids is not that of the numbers, and an id
    of another tenant, or one that was guessed, has no number.
    """

    def __init__(self, secret: bytes, tenant_id: UUID) -> None:
        cipher = Cipher(AES(hmac.digest(secret, _PURPOSE + tenant_id.bytes, "sha256")), ECB())  # noqa: S305 - one block
        self.encrypt, self.decrypt = cipher.encryptor().update, cipher.decryptor().update
        """Encrypt and decrypt one block of 16 bytes."""

    def seal(self, number: int) -> str:
        """Return the id of a number of at most 64 bits: 32 hexadecimal digits."""
        return self.encrypt(number.to_bytes(_BLOCK_BYTES, "big")).hex()

    def unseal(self, id: str) -> int:
        """Return the number of an id. Raises ValueError if it is not an id of this tenant."""
        block = bytes.fromhex(id)
        number = int.from_bytes(self.decrypt(block), "big") if len(block) == _BLOCK_BYTES else -1
        if not 0 <= number < 1 << 63:
            raise ValueError("not an id of this tenant")
        return number
