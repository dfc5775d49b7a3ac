"""A walk over the pages gives every row once, whatever is inserted meanwhile; a token is good for its list only."""

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


class Shelf:
    """A list of rows that can be paged."""

    def __init__(self, db: Database, pages: Pages, call: Call, *, newest_first: bool = False) -> None:
        self.db, self.pages, self.call, self.newest_first = db, pages, call, newest_first
        self.names: list[str] = []

    async def put(self, count: int) -> None:
        names = [str(len(self.names) + number) for number in range(count)]
        self.names += names
        async with self.db.write(self.call) as tx:
            for name in names:
                tx.add(row(name))
                await tx.flush()

    async def page(self, size: int, token: str) -> tuple[list[str], str]:
        page = self.pages.read(ListRequest(page_size=size, page_token=token), self.call)
        async with self.db.read(self.call) as tx:
            narrowed = page.narrow(select(DeadLetterRow), DeadLetterRow.id, newest_first=self.newest_first)
            found = page.slice(await tx.all(narrowed))
        return [row.consumer for row in found.rows], found.next_page_token

    async def walk(self, size: int, between: Callable[[], Awaitable[None]]) -> list[list[str]]:
        walked, token = [], ""
        for _ in range(1000):
            rows, token = await self.page(size, token)
            walked.append(rows)
            if not token:
                return walked
            await between()
        raise AssertionError("the walk does not end")


class TestWalk:
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
    async def test_every_row_comes_once_and_in_order_while_others_are_inserted(
        self, db: Database, pages: Pages, call: Calls, *, count: int, size: int, inserted: list[int], newest_first: bool
    ) -> None:
        shelf = Shelf(db, pages, call(tenant_id=uuid4()), newest_first=newest_first)
        await shelf.put(count)
        there, to_come = list(shelf.names), iter(inserted)

        async def insert() -> None:
            await shelf.put(next(to_come, 0))

        walked = await shelf.walk(size, insert)
        seen = [name for page in walked for name in page]
        assert all(len(page) <= size for page in walked)
        assert len(set(seen)) == len(seen)
        if newest_first:
            assert seen == there[::-1]
        else:
            assert seen == shelf.names[: len(seen)]
            assert seen[: len(there)] == there

    async def test_the_last_page_has_no_token_even_when_it_is_full(
        self, db: Database, pages: Pages, call: Calls
    ) -> None:
        shelf = Shelf(db, pages, call())
        await shelf.put(4)
        first, token = await shelf.page(2, "")
        second, last = await shelf.page(2, token)
        assert (first, second, last) == (["0", "1"], ["2", "3"], "")

    async def test_the_size_may_change_on_the_way(self, db: Database, pages: Pages, call: Calls) -> None:
        shelf = Shelf(db, pages, call())
        await shelf.put(4)
        _, token = await shelf.page(1, "")
        assert await shelf.page(10, token) == (["1", "2", "3"], "")

    def test_no_size_means_the_default(self, pages: Pages, call: Calls) -> None:
        assert pages.read(ListRequest(), call()).size == SIZE_DEFAULT


class TestToken:
    @pytest.fixture
    async def token(self, db: Database, pages: Pages, call: Calls) -> str:
        shelf = Shelf(db, pages, call())
        await shelf.put(2)
        _, token = await shelf.page(1, "")
        return token

    def refused(self, pages: Pages, call: Call, request: Message) -> bool:
        try:
            pages.read(request, call)
        except PageTokenInvalid as error:
            return error.violations[0].field == "page_token"
        return False

    def test_it_is_good_for_its_list(self, pages: Pages, call: Calls, token: str) -> None:
        assert pages.read(ListRequest(page_token=token, page_size=7), call()).after is not None

    def test_another_filter_tenant_method_or_secret_refuses_it(
        self, pages: Pages, call: Calls, token: str, kit_settings: Callable[..., Settings]
    ) -> None:
        mine = ListRequest(page_token=token)
        assert self.refused(pages, call(), ListRequest(page_token=token, consumer="x"))
        assert self.refused(pages, call(tenant_id=uuid4()), mine)
        assert self.refused(pages, call(method="probe/Other"), mine)
        assert self.refused(Pages(kit_settings(page_key=SecretStr("another"))), call(), mine)

    def test_no_changed_byte_is_taken(self, pages: Pages, call: Calls, token: str) -> None:
        raw = bytearray(base64.urlsafe_b64decode(token + "=="))
        for place in range(len(raw)):
            changed = bytes(raw[:place]) + bytes([raw[place] ^ 1]) + bytes(raw[place + 1 :])
            text = base64.urlsafe_b64encode(changed).decode().rstrip("=")
            assert self.refused(pages, call(), ListRequest(page_token=text))

    @given(
        st.text(min_size=1, max_size=80)
        | st.binary(min_size=1, max_size=60).map(base64.urlsafe_b64encode).map(bytes.decode)
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_nothing_invented_is_taken(self, pages: Pages, call: Calls, token: str) -> None:
        assert self.refused(pages, call(), ListRequest(page_token=token))
