"""Public keys of an issuer of tokens, read from a file or a URL and refreshed in the background.

Known keys are used while the set is reloaded, and for up to a day while it can't be. A set older than `_FRESH_S` is
reloaded by the next call, which waits for it for `_RELOAD_WAIT_S`, so that a withdrawn key of a healthy source is
rejected.
"""

import asyncio
import json
import time
from pathlib import Path

import httpx
import jwt

from kit.errors import Unavailable
from kit.telemetry import log

ALGORITHMS = frozenset({"EdDSA", "ES256", "RS256"})
REFRESH_S = 30.0
"""An unknown kid reloads the keys, but no more often than this, whichever kid it is."""
_RETRY_S = 1.0
_FRESH_S = 300.0
_STALE_MAX_S = 24 * 3600.0
_FETCH_S = 2.0
_RELOAD_WAIT_S = 0.25
_BYTES_MAX = 1024 * 1024


class KeySet:
    """Public keys of one issuer, by kid."""

    def __init__(self, source: str, issuer: str, refresh_s: float) -> None:
        self.issuer = issuer
        self._refresh_s = refresh_s
        self._source = source
        self._keys: dict[str, jwt.PyJWK] = {}
        self._loaded_at = self._next_refresh_at = float("-inf")
        self._failed = True
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_started_at = 0.0

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """Return the issuer's key with this kid, or None. Raises Unavailable if the keys can't be loaded."""
        if kid not in self._keys or self._age_s > _STALE_MAX_S:
            await self._refresh(_FETCH_S)
        elif self._age_s > _FRESH_S:
            await self._refresh(_RELOAD_WAIT_S)
        may_exist = kid not in self._keys and (self._failed or self._refreshing is not None)
        if may_exist or self._age_s > _STALE_MAX_S:
            raise Unavailable("The key set of the token issuer")
        return self._keys.get(kid)

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._loaded_at

    async def _refresh(self, wait_s: float) -> None:
        """Load the keys unless they were loaded recently; wait for a load until `wait_s` after its start."""
        now = time.monotonic()
        if self._refreshing is None:
            if now <= self._next_refresh_at:
                return
            self._refresh_started_at = now
            self._refreshing = asyncio.create_task(self._load())
        wait_s -= now - self._refresh_started_at
        if wait_s > 0:
            await asyncio.wait({self._refreshing}, timeout=wait_s)

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(_FETCH_S):
                self._keys = _parse(await self._fetch())
            self._loaded_at, self._failed = time.monotonic(), False
        except (
            httpx.HTTPError, OSError, TimeoutError, jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError,
        ) as error:  # fmt: skip
            log.error("key set not loaded", source=self._source, error=error)
            self._failed = True
        finally:
            self._next_refresh_at = time.monotonic() + (_RETRY_S if self._failed else self._refresh_s)
            self._refreshing = None

    async def _fetch(self) -> bytes:
        if not self._source.startswith(("https://", "http://")):
            return Path(self._source).read_bytes()  # noqa: ASYNC240 - a small local file, seldom
        content = b""
        async with httpx.AsyncClient(timeout=_FETCH_S) as client, client.stream("GET", self._source) as response:
            async for chunk in response.raise_for_status().aiter_bytes():
                content += chunk
                if len(content) > _BYTES_MAX:
                    raise ValueError(f"more than {_BYTES_MAX} bytes")
        return content


def _parse(text: bytes) -> dict[str, jwt.PyJWK]:
    keys = (jwt.PyJWK(key) for key in json.loads(text)["keys"] if key.get("alg") in ALGORITHMS and key.get("kid"))
    return {key.key_id: key for key in keys if key.key_id}
