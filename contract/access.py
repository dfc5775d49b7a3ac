"""Who may call an RPC: its permission and its scope policy, as the protos declare them."""

from dataclasses import dataclass
from enum import IntEnum

from billing.options.v1 import options_pb2
from google.protobuf.descriptor import MethodDescriptor

from kit.auth import INTERNAL, Principal
from kit.errors import TenantScopeRequired


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
    scope_policy: ScopePolicy

    @classmethod
    def of(cls, method: MethodDescriptor) -> "AccessRule":
        """Return the rule of an RPC. Raises TypeError if its proto leaves a part of it open."""
        options = method.GetOptions().Extensions
        rule = cls(options[options_pb2.permission], ScopePolicy(options[options_pb2.scope_policy]))
        if not rule.permission:
            raise TypeError(f"{method.full_name} declares no permission")
        if (rule.scope_policy is ScopePolicy.UNSPECIFIED) != (rule.permission == INTERNAL):
            raise TypeError(f"{method.full_name} must declare a scope_policy, unless it is internal")
        return rule

    def check(self, principal: Principal) -> None:
        """Raise PermissionMissing, ScopeMissing or TenantScopeRequired unless the caller may call the RPC."""
        principal.check_permission(self.permission)
        if principal.confined and self.scope_policy is ScopePolicy.TENANT_ONLY:
            raise TenantScopeRequired
