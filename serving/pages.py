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
        return Slice(rows, _sealed(self.secret, self.list_digest, rows[-1].id.bytes))


class Pages:
    """Reads the page fields of list requests."""

    def __init__(self, settings: Settings) -> None:
        self._secret = settings.page_key.get_secret_value().encode()

    def read(self, request: Message, call: Call) -> Page:
        """The page that `request` asks for; raises PageTokenInvalid for a token of another list, filter or tenant."""
        digest = _digest(request, call.method, call.tenant_id)
        size: int = getattr(request, "page_size") or SIZE_DEFAULT  # noqa: B009 - generated messages have no base with it
        token: str = getattr(request, "page_token")  # noqa: B009
        after = UUID(bytes=_opened(self._secret, digest, token)) if token else None
        return Page(size, after, self._secret, digest)

    def sealed(self, place: bytes, request: Message, method: str, tenant_id: UUID) -> str:
        """A token for a list of another order, bound like the others, that holds a place in it."""
        return _sealed(self._secret, _digest(request, method, tenant_id), place)

    def opened(self, token: str, request: Message, method: str, tenant_id: UUID) -> bytes:
        """The place that `sealed` put into the token; raises PageTokenInvalid as `read` does."""
        return _opened(self._secret, _digest(request, method, tenant_id), token)


def _digest(request: Message, method: str, tenant_id: UUID) -> bytes:
    """What a token is bound to: the list and its filters."""
    filters = type(request)()
    filters.CopyFrom(request)
    filters.ClearField("page_token")
    filters.ClearField("page_size")
    listed = method.encode() + tenant_id.bytes + filters.SerializeToString(deterministic=True)
    return hashlib.sha256(listed).digest()


def _sealed(secret: bytes, digest: bytes, place: bytes) -> str:
    return base64.urlsafe_b64encode(place + _sign(secret, digest, place)).rstrip(b"=").decode()


def _opened(secret: bytes, digest: bytes, token: str) -> bytes:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise PageTokenInvalid from None
    place, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _sign(secret, digest, place)):
        raise PageTokenInvalid
    return place


def _sign(secret: bytes, digest: bytes, place: bytes) -> bytes:
    return hmac.digest(secret, digest + place, "sha256")[:_SIGNATURE_BYTES]
