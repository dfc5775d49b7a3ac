"""All pages together list every row once, despite concurrent inserts; a page token is valid for its list only."""

import base64
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import select

from kit.db import Database
from kit.errors import PageTokenInvalid
from kit.origin import Call
from kit.settings import Settings
from serving.operations import DeadLetterRow
from serving.pages import SIZE_DEFAULT, Pages
from tests.kit.probe import ListRequest

Calls = Callable[..., Call]


@pytest.fixture(scope="session")
def pages(kit_settings: Callable[..., Settings]) -> Pages:
    return Pages(kit_settings())


def row(consumer: str) -> DeadLetterRow:
    return DeadLetterRow(
        consumer=consumer, event_id=uuid4(), subject="", body="", actor="", traceparent="", error="", deliveries=1
    )


class RowList:
    """A list of rows with pagination."""

    def __init__(self, db: Database, pages: Pages, call: Call, *, newest_first: bool = False) -> None:
        self.db, self.pages, self.call, self.newest_first = db, pages, call, newest_first
        self.names: list[str] = []

    async def insert(self, count: int) -> None:
        names = [str(len(self.names) + number) for number in range(count)]
        self.names += names
        async with self.db.write(self.call) as tx:
            for name in names:
                tx.add(row(name))
                await tx.flush()

    async def page(self, size: int, token: str) -> tuple[list[str], str]:
        page = self.pages.read(ListRequest(page_size=size, page_token=token), self.call)
        async with self.db.read(self.call) as tx:
            rows = await page.fetch(tx, select(DeadLetterRow), DeadLetterRow.id, newest_first=self.newest_first)
        return [row.consumer for row in rows.rows], rows.next_page_token

    async def walk(self, size: int, between: Callable[[], Awaitable[None]]) -> list[list[str]]:
        pages_seen, token = [], ""
        for _ in range(1000):
            rows, token = await self.page(size, token)
            pages_seen.append(rows)
            if not token:
                return pages_seen
            await between()
        raise AssertionError("the list does not end")


class TestPaging:
    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(
        count=st.integers(0, 12),
        size=st.integers(1, 5),
        inserted=st.lists(st.integers(0, 3), max_size=6),
        newest_first=st.booleans(),
    )
    async def test_every_row_is_listed_once_and_in_order_during_inserts(
        self, db: Database, pages: Pages, call: Calls, *, count: int, size: int, inserted: list[int], newest_first: bool
    ) -> None:
        row_list = RowList(db, pages, call(tenant_id=uuid4()), newest_first=newest_first)
        await row_list.insert(count)
        before, inserts = list(row_list.names), iter(inserted)

        async def insert() -> None:
            await row_list.insert(next(inserts, 0))

        pages_seen = await row_list.walk(size, insert)
        seen = [name for page in pages_seen for name in page]
        assert all(len(page) <= size for page in pages_seen)
        assert len(set(seen)) == len(seen)
        if newest_first:
            assert seen == before[::-1]
        else:
            assert seen == row_list.names[: len(seen)]
            assert seen[: len(before)] == before

    async def test_full_last_page_has_no_token(self, db: Database, pages: Pages, call: Calls) -> None:
        row_list = RowList(db, pages, call())
        await row_list.insert(4)
        first, token = await row_list.page(2, "")
        second, last = await row_list.page(2, token)
        assert (first, second, last) == (["0", "1"], ["2", "3"], "")

    async def test_page_size_may_change_between_pages(self, db: Database, pages: Pages, call: Calls) -> None:
        row_list = RowList(db, pages, call())
        await row_list.insert(4)
        _, token = await row_list.page(1, "")
        assert await row_list.page(10, token) == (["1", "2", "3"], "")

    def test_missing_page_size_means_the_default(self, pages: Pages, call: Calls) -> None:
        assert pages.read(ListRequest(), call()).size == SIZE_DEFAULT


class TestToken:
    @pytest.fixture
    async def token(self, db: Database, pages: Pages, call: Calls) -> str:
        row_list = RowList(db, pages, call())
        await row_list.insert(2)
        _, token = await row_list.page(1, "")
        return token

    def is_rejected(self, pages: Pages, call: Call, request: Message) -> bool:
        try:
            pages.read(request, call)
        except PageTokenInvalid as error:
            return error.violations[0].field == "page_token"
        return False

    def test_token_is_valid_for_its_list(self, pages: Pages, call: Calls, token: str) -> None:
        assert pages.read(ListRequest(page_token=token, page_size=7), call()).after is not None

    def test_token_is_invalid_for_another_filter_tenant_method_or_key(
        self, pages: Pages, call: Calls, token: str, kit_settings: Callable[..., Settings]
    ) -> None:
        request = ListRequest(page_token=token)
        assert self.is_rejected(pages, call(), ListRequest(page_token=token, consumer="x"))
        assert self.is_rejected(pages, call(tenant_id=uuid4()), request)
        assert self.is_rejected(pages, call(method="probe/Other"), request)
        assert self.is_rejected(Pages(kit_settings(page_key=SecretStr("another"))), call(), request)

    def test_modified_token_is_invalid(self, pages: Pages, call: Calls, token: str) -> None:
        raw = bytearray(base64.urlsafe_b64decode(token + "=="))
        for position in range(len(raw)):
            changed = bytes(raw[:position]) + bytes([raw[position] ^ 1]) + bytes(raw[position + 1 :])
            text = base64.urlsafe_b64encode(changed).decode().rstrip("=")
            assert self.is_rejected(pages, call(), ListRequest(page_token=text))

    @given(
        st.text(min_size=1, max_size=80)
        | st.binary(min_size=1, max_size=60).map(base64.urlsafe_b64encode).map(bytes.decode)
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_forged_token_is_invalid(self, pages: Pages, call: Calls, token: str) -> None:
        assert self.is_rejected(pages, call(), ListRequest(page_token=token))
