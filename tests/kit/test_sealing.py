"""Sealed numbers: ids that show neither order nor number of events."""

import struct
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from billing.audit.v1.audit_service_pb2 import ListAuditEventsRequest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import PageTokenInvalid
from kit.settings import Settings
from serving.pages import Pages
from serving.sealing import Seal
from serving.timeline import decode_position

TENANT = uuid4()
SEAL = Seal(b"secret", TENANT)


@given(st.integers(0, 2**63 - 1))
def test_number_is_unsealed(number: int) -> None:
    assert SEAL.unseal(SEAL.seal(number)) == number
    assert Seal(b"secret", TENANT).seal(number) == SEAL.seal(number), "the same on every replica"


def test_order_is_not_shown() -> None:
    ids = [SEAL.seal(number) for number in range(1_000)]
    assert len(set(ids)) == 1_000
    assert sorted(ids) != ids
    assert all(len(id) == 32 for id in ids)


@pytest.mark.parametrize("id", ["", "00", "0" * 32, "f" * 32, "0" * 64, "x" * 32, "4711"])
def test_text_that_is_not_sealed_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match=r"not an id|hexadecimal"):
        SEAL.unseal(id)


def test_ids_of_other_tenants_and_secrets_are_refused() -> None:
    for other in (Seal(b"secret", uuid4()), Seal(b"other", TENANT)):
        with pytest.raises(ValueError, match="not an id"):
            SEAL.unseal(other.seal(4711))


def test_page_token_with_an_unsealed_position_is_refused(kit_settings: Callable[..., Settings]) -> None:
    pages, request = Pages(kit_settings()), ListAuditEventsRequest()
    position = struct.pack(">qq", 1_790_000_000_000_000, 4711) + b"entities"
    request.page_token = pages.encode_token(position, request, "audit/List", UUID(int=1))
    with pytest.raises(PageTokenInvalid):
        decode_position(pages, request, "audit/List", UUID(int=1))
