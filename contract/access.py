"""Access rules of RPCs, as the protos declare them: permission, scope policy and calling services."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import unquote

from billing.options.v1 import options_pb2
from google.protobuf.descriptor import MethodDescriptor

from kit.auth import INTERNAL, SERVICE_PREFIX, Principal
from kit.errors import CallerNotAllowed, TenantScopeRequired


class ScopePolicy(IntEnum):
    """billing.options.v1.ScopePolicy: what an RPC does for confined callers."""

    UNSPECIFIED = options_pb2.SCOPE_POLICY_UNSPECIFIED
    FILTERED = options_pb2.SCOPE_POLICY_FILTERED
    TENANT_ONLY = options_pb2.SCOPE_POLICY_TENANT_ONLY
    SHARED = options_pb2.SCOPE_POLICY_SHARED


@dataclass(frozen=True, slots=True)
class AccessRule:
    """The conditions that a caller of an RPC must meet."""

    permission: str
    scope_policy: ScopePolicy = ScopePolicy.UNSPECIFIED
    callers: Collection[str] = ()
    """For internal RPCs: the services that may call it."""
    on_behalf_of_user: bool = False
    """For internal RPCs: true if the calling service may name the user for whom it calls."""

    @classmethod
    def of(cls, method: MethodDescriptor) -> "AccessRule":
        """Return the rule of an RPC. Raises TypeError if its proto leaves a part of it open."""
        options = method.GetOptions().Extensions
        rule = cls(
            options[options_pb2.permission],
            ScopePolicy(options[options_pb2.scope_policy]),
            frozenset(options[options_pb2.callers]),
            options[options_pb2.on_behalf_of_user],
        )
        if not rule.permission:
            raise TypeError(f"{method.full_name} declares no permission")
        if (rule.scope_policy is ScopePolicy.UNSPECIFIED) != (rule.permission == INTERNAL):
            raise TypeError(f"{method.full_name} must declare a scope_policy, unless it is internal")
        if bool(rule.callers) != (rule.permission == INTERNAL):
            raise TypeError(f"{method.full_name} must declare callers if it is internal, and only then")
        return rule

    def check(self, principal: Principal) -> None:
        """Raise an error unless the caller may call the RPC.

        Raises PermissionMissing, ScopeMissing, CallerNotAllowed or TenantScopeRequired.
        """
        principal.check_permission(self.permission)
        if INTERNAL in principal.permissions and principal.service not in self.callers:
            raise CallerNotAllowed(principal.service)
        if self.scope_policy is ScopePolicy.TENANT_ONLY and principal.confined:
            raise TenantScopeRequired

    def actor(self, principal: Principal, on_behalf_of: str | None) -> str:
        """Return the actor: the caller, or the user for whom a service calls, where the RPC allows that.

        A service that calls for its own sake, or for another service, is the actor itself.
        """
        if not self.on_behalf_of_user or not on_behalf_of or not principal.service:
            return principal.subject
        user = unquote(on_behalf_of)
        return principal.subject if user.startswith(SERVICE_PREFIX) else user
