"""Pages of a list that every service has a part of: newest first, in one order over all of them.

A token says after which line the list goes on, whichever service that line is of. So one token serves all: each finds
out from it where its own part goes on, and nobody needs to remember how far the others were read.
"""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.message import Message

from serving.pages import Pages

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS = struct.Struct(">qq")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the list: when it was written, in which service, and at which position there."""

    time: datetime
    service: str
    position: int

    @property
    def order(self) -> tuple[timedelta, str, int]:
        """What the list is sorted by: newest first; at one moment by service, and there by falling position."""
        return _EPOCH - self.time, self.service, -self.position

    def packed(self) -> bytes:
        """As `unpacked` takes it."""
        microseconds = (self.time - _EPOCH) // timedelta(microseconds=1)
        return _NUMBERS.pack(microseconds, self.position) + self.service.encode()

    @classmethod
    def unpacked(cls, place: bytes) -> "Place":
        """What `packed` gave."""
        microseconds, position = _NUMBERS.unpack_from(place)
        return cls(_EPOCH + timedelta(microseconds=microseconds), place[_NUMBERS.size :].decode(), position)


def read_place(pages: Pages, request: Message, method: str, tenant_id: UUID) -> Place | None:
    """After which line the request wants the list to go on; None: from its beginning. Raises PageTokenInvalid."""
    token: str = getattr(request, "page_token")  # noqa: B009 - generated messages have no base with it
    return Place.unpacked(pages.opened(token, request, method, tenant_id)) if token else None


def token_of(pages: Pages, place: Place, request: Message, method: str, tenant_id: UUID) -> str:
    """The token with which the list goes on after the place."""
    return pages.sealed(place.packed(), request, method, tenant_id)
