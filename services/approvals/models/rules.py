"""Rules of approval, in all their versions."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Boolean, Integer, Numeric, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import Base, TenantRow, VersionedRow, text_enum
from services.approvals.domain.lives import ApprovalType, Flow, Mode, OnExpiry, RuleState
from services.approvals.domain.rules import Approver, ApproverKind, Rule, RuleStep, RuleTerms
from services.approvals.models.panels import hours_of, hours_record


class RuleRow(VersionedRow):
    """A rule as it is."""

    __tablename__ = "approval_rules"
    audited_as = ids.RULE

    name: Mapped[str] = mapped_column(String)
    priority: Mapped[int] = mapped_column(Integer)
    request_type: Mapped[ApprovalType | None] = mapped_column(text_enum(ApprovalType))
    amount_above: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    amount_up_to: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    currency_code: Mapped[str | None] = mapped_column(String(3))
    ladder: Mapped[str] = mapped_column(String)
    entity_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    department_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    categories: Mapped[list[str]] = mapped_column(ARRAY(String))
    condition: Mapped[str] = mapped_column(String)
    steps: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    flow: Mapped[Flow] = mapped_column(text_enum(Flow))
    auto_approve: Mapped[bool] = mapped_column(Boolean)
    allow_self_approval: Mapped[bool] = mapped_column(Boolean)
    on_expiry: Mapped[OnExpiry] = mapped_column(text_enum(OnExpiry))
    business_hours: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    is_default: Mapped[bool] = mapped_column(Boolean)
    state: Mapped[RuleState] = mapped_column(text_enum(RuleState))
    rule_version: Mapped[int] = mapped_column(Integer)

    def as_in(self, version: "RuleVersionRow") -> "RuleRow":
        """The rule as it was in a version; not to be saved."""
        kept = {name: _READ.get(name, lambda value: value)(value) for name, value in version.record.items()}
        return RuleRow(
            id=self.id,
            version=self.version,
            rule_version=version.rule_version,
            create_time=self.create_time,
            update_time=version.create_time,
            **kept,
        )

    @property
    def rule(self) -> Rule:
        """The rule in its newest version."""
        return Rule(id=self.id, version=self.rule_version, terms=self.terms)

    @property
    def terms(self) -> RuleTerms:
        """What it says."""
        return RuleTerms(
            name=self.name,
            priority=self.priority,
            request_type=self.request_type,
            amount_above=self.amount_above,
            amount_up_to=self.amount_up_to,
            currency=self.currency_code or "",
            ladder=self.ladder,
            entity_ids=frozenset(self.entity_ids),
            department_ids=frozenset(self.department_ids),
            categories=frozenset(self.categories),
            condition=self.condition,
            steps=tuple(map(_step_of, self.steps)),
            flow=self.flow,
            auto_approve=self.auto_approve,
            allow_self_approval=self.allow_self_approval,
            on_expiry=self.on_expiry,
            business_hours=hours_of(self.business_hours),
            is_default=self.is_default,
        )


def columns_of(terms: RuleTerms) -> Mapping[str, Any]:
    """The columns that say what a rule says."""
    return {
        "name": terms.name,
        "priority": terms.priority,
        "request_type": terms.request_type,
        "amount_above": terms.amount_above,
        "amount_up_to": terms.amount_up_to,
        "currency_code": terms.currency or None,
        "ladder": terms.ladder,
        "entity_ids": sorted(terms.entity_ids),
        "department_ids": sorted(terms.department_ids),
        "categories": sorted(terms.categories),
        "condition": terms.condition,
        "steps": list(map(_step_record, terms.steps)),
        "flow": terms.flow,
        "auto_approve": terms.auto_approve,
        "allow_self_approval": terms.allow_self_approval,
        "on_expiry": terms.on_expiry,
        "business_hours": hours_record(terms.business_hours) if terms.business_hours else None,
        "is_default": terms.is_default,
    }


def record_of(row: RuleRow) -> dict[str, Any]:
    """A version as it is kept: the columns of the rule."""
    kept = {**columns_of(row.terms), "state": row.state}
    return {name: _written(value) for name, value in kept.items()}


def _written(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return (
        [_written(one) for one in value] if isinstance(value, list) else value.hex if isinstance(value, UUID) else value
    )


def _decimal(kept: str | None) -> Decimal | None:
    return None if kept is None else Decimal(kept)


def _uuids(kept: list[str]) -> list[UUID]:
    return [UUID(text) for text in kept]


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "amount_above": _decimal,
    "amount_up_to": _decimal,
    "entity_ids": _uuids,
    "department_ids": _uuids,
    "request_type": lambda kept: kept and ApprovalType(kept),
    "flow": Flow,
    "on_expiry": OnExpiry,
    "state": RuleState,
}
"""What the columns are that JSON does not know."""


def _step_record(step: RuleStep) -> dict[str, Any]:
    return {
        "name": step.name,
        "approvers": list(map(_approver_record, step.approvers)),
        "mode": step.mode.value,
        "quorum": step.quorum,
        "sla_hours": step.sla_hours,
        "escalate_to": _approver_record(step.escalate_to) if step.escalate_to else None,
    }


def _approver_record(approver: Approver) -> Mapping[str, str]:
    return {"kind": approver.kind.value, "name": approver.name}


def _step_of(kept: Mapping[str, Any]) -> RuleStep:
    return RuleStep(
        name=kept["name"],
        approvers=tuple(map(_approver_of, kept["approvers"])),
        mode=Mode(kept["mode"]),
        quorum=kept["quorum"],
        sla_hours=kept["sla_hours"],
        escalate_to=_approver_of(kept["escalate_to"]) if kept["escalate_to"] else None,
    )


def _approver_of(kept: Mapping[str, str]) -> Approver:
    return Approver(ApproverKind(kept["kind"]), kept["name"])


class RuleVersionRow(TenantRow):
    """A rule as it was in one of its versions; never changed."""

    __tablename__ = "approval_rule_versions"

    rule_id: Mapped[UUID] = mapped_column(Uuid)
    rule_version: Mapped[int] = mapped_column(Integer)
    record: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """The columns of the rule."""
    actor: Mapped[str] = mapped_column(String)


class RuleRevisionRow(Base):
    """Counts the changes of a tenant's rules, so that who remembers them knows when to read them again."""

    __tablename__ = "approval_rule_revisions"

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
