"""TtlCache: bounded, and values expire."""

import time

import pytest

from kit.cache import TtlCache


def test_value_is_returned_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    cache: TtlCache[str, int] = TtlCache(10, ttl_s=60.0)
    cache.set("a", 1)
    assert cache.get("a") == 1
    assert cache.get("b") is None
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert cache.get("a") is None
    assert len(cache) == 0


def test_full_cache_drops_the_value_set_first() -> None:
    cache: TtlCache[int, int] = TtlCache(3)
    for number in range(3):
        cache.set(number, number)
    cache.set(0, 10)
    cache.set(3, 3)
    assert [cache.get(number) for number in range(4)] == [10, None, 2, 3]


def test_values_can_be_discarded() -> None:
    cache: TtlCache[tuple[str, int], int] = TtlCache(10)
    for tenant in ("a", "b"):
        for number in range(2):
            cache.set((tenant, number), number)
    cache.discard(("b", 1))
    cache.discard(("b", 1))
    cache.discard_if(lambda key: key[0] == "a")
    assert len(cache) == 1
    assert cache.get(("b", 0)) == 0
