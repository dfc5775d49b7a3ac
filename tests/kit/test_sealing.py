"""Sealed numbers: ids that show neither order nor number of events."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.sealing import Seal

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
def test_what_is_not_sealed_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match=r"not an id|hexadecimal"):
        SEAL.unseal(id)


def test_ids_of_other_tenants_and_secrets_are_refused() -> None:
    for other in (Seal(b"secret", uuid4()), Seal(b"other", TENANT)):
        with pytest.raises(ValueError, match="not an id"):
            SEAL.unseal(other.seal(4711))
