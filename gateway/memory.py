"""The memory for bodies of requests and responses: bounded for the process, and shared between tenants."""

from collections import defaultdict
from uuid import UUID

from kit.errors import Overloaded

_TENANT_SHARE = 4


class Memory:
    """Counts the bytes that are held.

    Half of the room is for any tenant, so that one can use what nobody else needs. The other half is for tenants that
    hold less than a quarter of it all.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._total = 0
        self._by_tenant: defaultdict[UUID, int] = defaultdict(int)

    def reserve(self, tenant_id: UUID, size: int) -> None:
        """Count bytes. Raises Overloaded if there is no room for them."""
        total, of_tenant = self._total + size, self._by_tenant.get(tenant_id, 0) + size
        if total > self._bytes_max or (total * 2 > self._bytes_max and of_tenant * _TENANT_SHARE > self._bytes_max):
            raise Overloaded
        self._total = total
        self._by_tenant[tenant_id] = of_tenant

    def release(self, tenant_id: UUID, size: int) -> None:
        """Give back bytes that were reserved."""
        self._total -= size
        self._by_tenant[tenant_id] -= size
        if not self._by_tenant[tenant_id]:
            del self._by_tenant[tenant_id]
