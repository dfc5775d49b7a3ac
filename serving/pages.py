"""Pages of a list: keyset order by id, with a signed token that is bound to the list and its filters.

Ids are time-ordered, so the order by id is the order of creation; rows that are inserted while someone
pages never shift what is still to come.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute

from kit.db import TenantRow
from kit.errors import PageTokenInvalid
from kit.origin import Call
from kit.settings import Settings

SIZE_DEFAULT = 50
_SIGNATURE_BYTES = 16


RowT = TypeVar("RowT", bound=TenantRow)


@dataclass(frozen=True, slots=True)
class Slice(Generic[RowT]):
    """The rows of one page and the token of the next; empty on the last page."""

    rows: Sequence[RowT]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Page:
    """What a caller asked for: how many, after which row, of which list."""

    size: int
    after: UUID | None
    secret: bytes
    list_digest: bytes

    def narrow(
        self, select: Select[RowT], id: InstrumentedAttribute[UUID], *, newest_first: bool = False
    ) -> Select[RowT]:
        """The query for this page, with one row more to see whether another page follows."""
        if self.after is not None:
            select = select.where(id < self.after if newest_first else id > self.after)
        return select.order_by(id.desc() if newest_first else id).limit(self.size + 1)

    def slice(self, rows: Sequence[RowT]) -> Slice[RowT]:
        """The page out of the rows that the narrowed query gave."""
        if len(rows) <= self.size:
            return Slice(rows, "")
        rows = rows[: self.size]
        last = rows[-1].id.bytes
        token = base64.urlsafe_b64encode(last + _sign(self.secret, self.list_digest, last)).rstrip(b"=")
        return Slice(rows, token.decode())


class Pages:
    """Reads the page fields of list requests."""

    def __init__(self, settings: Settings) -> None:
        self._secret = settings.page_key.get_secret_value().encode()

    def read(self, request: Message, call: Call) -> Page:
        """The page that `request` asks for; raises PageTokenInvalid for a token of another list, filter or tenant."""
        filters = type(request)()
        filters.CopyFrom(request)
        filters.ClearField("page_token")
        filters.ClearField("page_size")
        listed = call.method.encode() + call.tenant_id.bytes + filters.SerializeToString(deterministic=True)
        digest = hashlib.sha256(listed).digest()
        size: int = getattr(request, "page_size") or SIZE_DEFAULT  # noqa: B009 - generated messages have no base with it
        token: str = getattr(request, "page_token")  # noqa: B009
        return Page(size, _open(self._secret, digest, token) if token else None, self._secret, digest)


def _open(secret: bytes, digest: bytes, token: str) -> UUID:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise PageTokenInvalid from None
    last, signature = raw[:16], raw[16:]
    if not hmac.compare_digest(signature, _sign(secret, digest, last)):
        raise PageTokenInvalid
    return UUID(bytes=last)


def _sign(secret: bytes, digest: bytes, last: bytes) -> bytes:
    return hmac.digest(secret, digest + last, "sha256")[:_SIGNATURE_BYTES]
