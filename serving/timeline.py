"""Pages of a list that is distributed over all services, newest first.

A page token holds the position of the last item of the page, of any service. The same token works
for every service: each continues its own part of the list after that position, so no per-service state is needed.
"""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.message import Message

from kit.errors import PageTokenInvalid
from serving.pages import Pages
from serving.sealing import Seal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS = struct.Struct(">qq")


@dataclass(frozen=True, slots=True)
class Position:
    """The position of an item in the list: its time, its service, and its number within the service."""

    time: datetime
    service: str
    number: int

    @property
    def sort_key(self) -> tuple[timedelta, str, int]:
        """The order of the list: newest first; at the same time by service, then by descending number."""
        return _EPOCH - self.time, self.service, -self.number

    def to_bytes(self, seal: Seal) -> bytes:
        """Serialize for a page token."""
        microseconds = (self.time - _EPOCH) // timedelta(microseconds=1)
        return seal.encrypt(_NUMBERS.pack(microseconds, self.number)) + self.service.encode()

    @classmethod
    def from_bytes(cls, data: bytes, seal: Seal) -> "Position":
        """Parse the result of `to_bytes`. Raises PageTokenInvalid for other bytes, as in tokens of earlier versions."""
        try:
            microseconds, number = _NUMBERS.unpack(seal.decrypt(data[: _NUMBERS.size]))
            return cls(_EPOCH + timedelta(microseconds=microseconds), data[_NUMBERS.size :].decode(), number)
        except (struct.error, OverflowError, UnicodeDecodeError):
            raise PageTokenInvalid from None


def decode_position(pages: Pages, request: Message, method: str, tenant_id: UUID) -> Position | None:
    """Return the position in the page token of the request, None on the first page. Raises PageTokenInvalid."""
    token: str = getattr(request, "page_token")  # noqa: B009 - generated messages have no common base
    if not token:
        return None
    return Position.from_bytes(pages.decode_token(token, request, method, tenant_id), pages.seal(tenant_id))


def encode_position(pages: Pages, position: Position, request: Message, method: str, tenant_id: UUID) -> str:
    """Return the page token that continues the list after the position."""
    return pages.encode_token(position.to_bytes(pages.seal(tenant_id)), request, method, tenant_id)
