"""Amendments of contracts, and what was said of their purchase orders."""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias, TypedDict
from uuid import UUID

from sqlalchemy import Boolean, Date, DateTime, Integer, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import TenantRow, VersionedRow, text_enum
from kit.money import Money
from services.entities.domain.amendments import AmendedFee, AmendmentState, AmendmentType, Changes, Effect
from services.entities.domain.contracts import Phase, SlaTerms
from services.entities.domain.proration import Days
from services.entities.models.contracts import AMOUNT

Kept: TypeAlias = Mapping[str, Any]
"""As it is kept in JSON: amounts are exact texts in the currency of the contract, days are ISO texts."""


class ChangesRecord(TypedDict):
    """What an amendment changes, as it is kept."""

    before: Kept
    after: Kept


class AmendmentRow(VersionedRow):
    """What the parties of a contract agreed to change, and from which day on."""

    __tablename__ = "contract_amendments"
    audited_as = ids.AMENDMENT

    contract_id: Mapped[UUID] = mapped_column(Uuid)
    number: Mapped[int] = mapped_column(Integer)
    """Counts the amendments of a contract, the first being 1."""
    amendment_type: Mapped[AmendmentType] = mapped_column(text_enum(AmendmentType))
    effective_date: Mapped[date] = mapped_column(Date)
    currency_code: Mapped[str] = mapped_column(String(3))
    changes: Mapped[ChangesRecord] = mapped_column(JSONB)
    proration: Mapped[Kept] = mapped_column(JSONB)
    reason: Mapped[str] = mapped_column(String)
    state: Mapped[AmendmentState] = mapped_column(text_enum(AmendmentState))
    approved_by: Mapped[str] = mapped_column(String, default="")
    approve_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    apply_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    rejection_reason: Mapped[str] = mapped_column(String, default="")
    awaits_approval: Mapped[bool] = mapped_column(Boolean, default=False)
    """Whether an approval request about it is undecided."""

    @property
    def before(self) -> Changes:
        """What the terms were when it was made."""
        return _read(self.changes["before"], self.currency_code)

    @property
    def after(self) -> Changes:
        """What they are to be."""
        return _read(self.changes["after"], self.currency_code)

    @property
    def effect(self) -> Effect:
        """What it does to the fees."""
        return _effect_of(self.proration, self.currency_code)


class PurchaseOrderWarningRow(TenantRow):
    """That the fees of a contract were said to reach so much of a purchase order; once, and never changed."""

    __tablename__ = "purchase_order_warnings"

    contract_id: Mapped[UUID] = mapped_column(Uuid)
    purchase_order_number: Mapped[str] = mapped_column(String)
    purchase_order_limit: Mapped[Decimal] = mapped_column(AMOUNT)
    threshold_bp: Mapped[int] = mapped_column(Integer)


def changes_record(before: Changes, after: Changes) -> ChangesRecord:
    """Changes, as they are kept."""
    return ChangesRecord(before=_written(before), after=_written(after))


def _written(changes: Changes) -> Kept:
    return {name: _WRITTEN[type(value)](value) if type(value) in _WRITTEN else value for name, value in changes.items()}


def _phases_written(phases: tuple[Phase, ...]) -> Any:
    return [{"start_date": phase.start_date.isoformat(), "fee": f"{phase.fee.amount:f}"} for phase in phases]


def _sla_written(sla: SlaTerms) -> Kept:
    return {"uptime_bp": sla.uptime_bp, "response_hours": sla.response_hours, "credit_bp": sla.credit_bp}


_WRITTEN: Final[Mapping[type, Callable[[Any], Any]]] = {
    Money: lambda money: f"{money.amount:f}",
    date: date.isoformat,
    tuple: _phases_written,
    SlaTerms: _sla_written,
}
"""How values are written that JSON does not have."""


def _read(kept: Kept, currency: str) -> Changes:
    def money(text: str) -> Money:
        return Money(Decimal(text), currency)

    def phases(listed: list[Kept]) -> tuple[Phase, ...]:
        return tuple(Phase(date.fromisoformat(each["start_date"]), money(each["fee"])) for each in listed)

    reading: Mapping[str, Callable[[Any], Any]] = {
        "fee": money,
        "phases": phases,
        "end_date": date.fromisoformat,
        "minimum_commitment": money,
        "purchase_order_limit": money,
        "sla_terms": lambda sla: SlaTerms(**sla),
    }
    return {
        name: reading[name](value) if name in reading and value is not None else value for name, value in kept.items()
    }


def effect_record(effect: Effect) -> Kept:
    """What an amendment does to the fees, as it is kept."""
    return {
        **_days_written(effect.period),
        "old_part": f"{effect.old_part.amount:f}",
        "new_part": f"{effect.new_part.amount:f}",
        "old_total": f"{effect.old_total.amount:f}",
        "new_total": f"{effect.new_total.amount:f}",
        "fees": [
            {
                "number": fee.number,
                **_days_written(fee.days),
                "old": f"{fee.old.amount:f}",
                "new": f"{fee.new.amount:f}",
            }
            for fee in effect.fees
        ],
    }


def _days_written(days: Days) -> Kept:
    return {"start_date": days.start.isoformat(), "end_date": days.end.isoformat()}


def _effect_of(kept: Kept, currency: str) -> Effect:
    def money(text: str) -> Money:
        return Money(Decimal(text), currency)

    return Effect(
        period=_days(kept),
        old_part=money(kept["old_part"]),
        new_part=money(kept["new_part"]),
        fees=tuple(AmendedFee(fee["number"], _days(fee), money(fee["old"]), money(fee["new"])) for fee in kept["fees"]),
        old_total=money(kept["old_total"]),
        new_total=money(kept["new_total"]),
    )


def _days(kept: Kept) -> Days:
    return Days(date.fromisoformat(kept["start_date"]), date.fromisoformat(kept["end_date"]))
