"""Keyset pagination by id, with a signed page token that is bound to the list and its filters.

Ids are time-ordered, so the order by id is the order of creation. Rows inserted between two pages don't shift the rows
of later pages.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute

from kit.db import ReadSession, TenantRow
from kit.errors import PageTokenInvalid
from kit.origin import Call
from kit.settings import Settings
from serving.sealing import Seal

SIZE_DEFAULT = 50
_SIGNATURE_BYTES = 16


RowT = TypeVar("RowT", bound=TenantRow)
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Slice(Generic[RowT]):
    """The rows of one page and the token of the next page; empty on the last page."""

    rows: Sequence[RowT]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Page:
    """The requested page: its size, the id after which it starts, and the list that its token is bound to."""

    size: int
    after: UUID | None
    secret: bytes
    list_digest: bytes

    async def fetch(
        self, tx: ReadSession, query: Select[RowT], id: InstrumentedAttribute[UUID], *, newest_first: bool = False
    ) -> Slice[RowT]:
        """Run the query for the rows of this page, in the order of their ids."""
        if self.after is not None:
            query = query.where(id < self.after if newest_first else id > self.after)
        # One row more than the page has shows whether another page follows.
        rows = await tx.all(query.order_by(id.desc() if newest_first else id).limit(self.size + 1))
        if len(rows) <= self.size:
            return Slice(rows, "")
        rows = rows[: self.size]
        return Slice(rows, _encode_token(self.secret, self.list_digest, rows[-1].id.bytes))


@dataclass(frozen=True, slots=True)
class OrderedPage:
    """The requested page of a list that has another order than by id."""

    size: int
    after: bytes
    """The position of the last item of the previous page; empty for the first page."""
    secret: bytes
    list_digest: bytes

    @property
    def limit(self) -> int:
        """How many items to read: one more than the page has shows whether another page follows."""
        return self.size + 1

    def cut(self, items: Sequence[ItemT], position_of: Callable[[ItemT], bytes]) -> tuple[Sequence[ItemT], str]:
        """Return the items of this page among at most `limit`, and the token of the next page; empty on the last."""
        if len(items) <= self.size:
            return items, ""
        page = items[: self.size]
        return page, _encode_token(self.secret, self.list_digest, position_of(page[-1]))


class Pages:
    """Parses the page fields of list requests, and signs page tokens."""

    def __init__(self, settings: Settings) -> None:
        self._secret = settings.page_key.get_secret_value().encode()

    def seal(self, tenant_id: UUID) -> Seal:
        """Return the seal for numbers that a tenant gets to see."""
        return Seal(self._secret, tenant_id)

    def read(self, request: Message, call: Call) -> Page:
        """Return the requested page.

        Raises PageTokenInvalid for a token of another list, filter or tenant.
        """
        digest = _digest(request, call.method, call.tenant_id)
        size: int = getattr(request, "page_size") or SIZE_DEFAULT  # noqa: B009 - generated messages have no common base
        token: str = getattr(request, "page_token")  # noqa: B009
        after = UUID(bytes=_decode_token(self._secret, digest, token)) if token else None
        return Page(size, after, self._secret, digest)

    def read_ordered(self, request: Message, call: Call) -> OrderedPage:
        """Return the requested page of a list in another order than by id. Raises PageTokenInvalid as `read` does."""
        digest = _digest(request, call.method, call.tenant_id)
        size: int = getattr(request, "page_size") or SIZE_DEFAULT  # noqa: B009 - as above
        token: str = getattr(request, "page_token")  # noqa: B009
        after = _decode_token(self._secret, digest, token) if token else b""
        return OrderedPage(size, after, self._secret, digest)

    def encode_token(self, position: bytes, request: Message, method: str, tenant_id: UUID) -> str:
        """Return a signed token for a list in another order than by id; `position` is the last item of the page."""
        return _encode_token(self._secret, _digest(request, method, tenant_id), position)

    def decode_token(self, token: str, request: Message, method: str, tenant_id: UUID) -> bytes:
        """Return the position in a token of `encode_token`. Raises PageTokenInvalid as `read` does."""
        return _decode_token(self._secret, _digest(request, method, tenant_id), token)


def _digest(request: Message, method: str, tenant_id: UUID) -> bytes:
    """Return a hash of the list, its filters and the tenant: a token is valid for this hash only."""
    filters = type(request)()
    filters.CopyFrom(request)
    filters.ClearField("page_token")
    filters.ClearField("page_size")
    bound_to = method.encode() + tenant_id.bytes + filters.SerializeToString(deterministic=True)
    return hashlib.sha256(bound_to).digest()


def _encode_token(secret: bytes, digest: bytes, position: bytes) -> str:
    return base64.urlsafe_b64encode(position + _sign(secret, digest, position)).rstrip(b"=").decode()


def _decode_token(secret: bytes, digest: bytes, token: str) -> bytes:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise PageTokenInvalid from None
    position, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _sign(secret, digest, position)):
        raise PageTokenInvalid
    return position


def _sign(secret: bytes, digest: bytes, position: bytes) -> bytes:
    return hmac.digest(secret, digest + position, "sha256")[:_SIGNATURE_BYTES]
