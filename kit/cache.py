"""A bounded cache whose values expire."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """At most `size` values, each for at most `ttl_s` seconds. A full cache drops the value that was set first.

    For one event loop: it is neither thread-safe nor shared between processes.
    """

    def __init__(self, size: int, ttl_s: float = float("inf")) -> None:
        self._size = size
        self._ttl_s = ttl_s
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value of `key`, or None if there is none or it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires_at, value = entry
        if expires_at <= time.monotonic():
            del self._entries[key]
            return None
        return value

    def set(self, key: K, value: V) -> None:
        """Store `value` under `key` for the cache's time to live."""
        self._entries[key] = time.monotonic() + self._ttl_s, value
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def discard(self, key: K) -> None:
        """Remove the value of `key`, if there is one."""
        self._entries.pop(key, None)

    def discard_if(self, matches: Callable[[K], bool]) -> None:
        """Remove the values of all keys for which `matches` is true."""
        for key in [key for key in self._entries if matches(key)]:
            del self._entries[key]
