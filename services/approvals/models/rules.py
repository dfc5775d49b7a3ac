"""Approval rules and their versions."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Boolean, Integer, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, Base, TenantRow, VersionedRow, text_enum
from services.approvals import models
from services.approvals.domain.approvals import ApprovalType
from services.approvals.domain.rules import (
    Approver,
    ApproverKind,
    Flow,
    Mode,
    OnExpiry,
    Rule,
    RuleSpec,
    RuleState,
    RuleStep,
)


class RuleRow(VersionedRow):
    """The current version of a rule."""

    __tablename__ = "approval_rules"
    audited_as = ids.RULE

    name: Mapped[str] = mapped_column(String)
    priority: Mapped[int] = mapped_column(Integer)
    request_type: Mapped[ApprovalType | None] = mapped_column(text_enum(ApprovalType))
    amount_above: Mapped[Decimal | None] = mapped_column(AMOUNT)
    amount_up_to: Mapped[Decimal | None] = mapped_column(AMOUNT)
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

    def at_version(self, version: "RuleVersionRow") -> "RuleRow":
        """Return the rule as it was in a version; the row must not be added to a session."""
        columns = {name: _FROM_JSON.get(name, lambda value: value)(value) for name, value in version.record.items()}
        return RuleRow(
            id=self.id,
            version=self.version,
            rule_version=version.rule_version,
            create_time=self.create_time,
            update_time=version.create_time,
            **columns,
        )

    @property
    def rule(self) -> Rule:
        """The current version as a domain value."""
        return Rule(id=self.id, version=self.rule_version, spec=self.spec)

    @property
    def spec(self) -> RuleSpec:
        """The specification of the rule."""
        return RuleSpec(
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
            steps=tuple(map(_step_from_record, self.steps)),
            flow=self.flow,
            auto_approve=self.auto_approve,
            allow_self_approval=self.allow_self_approval,
            on_expiry=self.on_expiry,
            business_hours=models.workflows.hours_from_record(self.business_hours),
            is_default=self.is_default,
        )

    @spec.setter
    def spec(self, spec: RuleSpec) -> None:
        for column, value in _columns_of(spec).items():
            setattr(self, column, value)

    @property
    def record(self) -> dict[str, Any]:
        """The columns as JSON, for the versions of the rule."""
        columns = {**_columns_of(self.spec), "state": self.state}
        return {name: _to_json(value) for name, value in columns.items()}


def _columns_of(spec: RuleSpec) -> Mapping[str, Any]:
    hours = spec.business_hours
    return {
        "name": spec.name,
        "priority": spec.priority,
        "request_type": spec.request_type,
        "amount_above": spec.amount_above,
        "amount_up_to": spec.amount_up_to,
        "currency_code": spec.currency or None,
        "ladder": spec.ladder,
        "entity_ids": sorted(spec.entity_ids),
        "department_ids": sorted(spec.department_ids),
        "categories": sorted(spec.categories),
        "condition": spec.condition,
        "steps": list(map(_step_to_record, spec.steps)),
        "flow": spec.flow,
        "auto_approve": spec.auto_approve,
        "allow_self_approval": spec.allow_self_approval,
        "on_expiry": spec.on_expiry,
        "business_hours": models.workflows.hours_to_record(hours) if hours else None,
        "is_default": spec.is_default,
    }


def _to_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, UUID):
        return value.hex
    return [_to_json(item) for item in value] if isinstance(value, list) else value


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _uuids(texts: list[str]) -> list[UUID]:
    return [UUID(text) for text in texts]


_FROM_JSON: Final[Mapping[str, Callable[[Any], Any]]] = {
    "amount_above": _decimal,
    "amount_up_to": _decimal,
    "entity_ids": _uuids,
    "department_ids": _uuids,
    "request_type": lambda text: text and ApprovalType(text),
    "flow": Flow,
    "on_expiry": OnExpiry,
    "state": RuleState,
}
"""Parsers of the columns whose types JSON does not have."""


def _step_to_record(step: RuleStep) -> dict[str, Any]:
    return {
        "name": step.name,
        "approvers": list(map(_approver_to_record, step.approvers)),
        "mode": step.mode.value,
        "quorum": step.quorum,
        "sla_hours": step.sla_hours,
        "escalate_to": _approver_to_record(step.escalate_to) if step.escalate_to else None,
    }


def _step_from_record(record: Mapping[str, Any]) -> RuleStep:
    return RuleStep(
        name=record["name"],
        approvers=tuple(map(_approver_from_record, record["approvers"])),
        mode=Mode(record["mode"]),
        quorum=record["quorum"],
        sla_hours=record["sla_hours"],
        escalate_to=_approver_from_record(record["escalate_to"]) if record["escalate_to"] else None,
    )


def _approver_to_record(approver: Approver) -> Mapping[str, str]:
    return {"kind": approver.kind.value, "name": approver.name}


def _approver_from_record(record: Mapping[str, str]) -> Approver:
    return Approver(ApproverKind(record["kind"]), record["name"])


class RuleVersionRow(TenantRow):
    """A version of a rule. Append-only."""

    __tablename__ = "approval_rule_versions"

    rule_id: Mapped[UUID] = mapped_column(Uuid)
    rule_version: Mapped[int] = mapped_column(Integer)
    record: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """The columns of the rule."""
    actor: Mapped[str] = mapped_column(String)


class RuleRevisionRow(Base):
    """Number of changes of a tenant's rules so far. Caches compare it to detect that they are outdated."""

    __tablename__ = "approval_rule_revisions"

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
