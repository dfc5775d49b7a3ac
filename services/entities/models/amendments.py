"""Table of contract amendments."""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias, TypedDict
from uuid import UUID

from sqlalchemy import Boolean, Date, DateTime, Integer, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import VersionedRow, text_enum
from kit.money import Money
from services.entities.domain.amendments import (
    AmendedFee,
    AmendmentEffect,
    AmendmentState,
    AmendmentType,
    TermValues,
)
from services.entities.domain.contracts import Phase, SlaTerms
from services.entities.domain.proration import DateRange

JsonObject: TypeAlias = Mapping[str, Any]
"""A stored JSON object: amounts are exact decimal texts in the currency of the contract, dates are ISO texts."""


class ChangesRecord(TypedDict):
    """The changes of an amendment as stored in JSON."""

    before: JsonObject
    after: JsonObject


class AmendmentRow(VersionedRow):
    """An agreed change of a contract's terms that takes effect on a date."""

    __tablename__ = "contract_amendments"
    audited_as = ids.AMENDMENT

    contract_id: Mapped[UUID] = mapped_column(Uuid)
    number: Mapped[int] = mapped_column(Integer)
    """Counts the amendments of a contract from 1."""
    amendment_type: Mapped[AmendmentType] = mapped_column(text_enum(AmendmentType))
    effective_date: Mapped[date] = mapped_column(Date)
    currency_code: Mapped[str] = mapped_column(String(3))
    changes: Mapped[ChangesRecord] = mapped_column(JSONB)
    proration: Mapped[JsonObject] = mapped_column(JSONB)
    """The stored form of `effect`."""
    reason: Mapped[str] = mapped_column(String)
    state: Mapped[AmendmentState] = mapped_column(text_enum(AmendmentState))
    approved_by: Mapped[str] = mapped_column(String, default="")
    approve_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    apply_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    rejection_reason: Mapped[str] = mapped_column(String, default="")
    awaits_approval: Mapped[bool] = mapped_column(Boolean, default=False)
    """True while an approval request about the amendment is undecided."""
    approval_problem: Mapped[str] = mapped_column(String, default="")
    """Why the outcome of the approval request is not recorded yet; empty unless that failed."""

    @property
    def before(self) -> TermValues:
        """The values of the changed terms when the amendment was created."""
        return _values(self.changes["before"], self.currency_code)

    @property
    def after(self) -> TermValues:
        """The new values of the changed terms."""
        return _values(self.changes["after"], self.currency_code)

    def set_changes(self, before: TermValues, after: TermValues) -> None:
        """Store the changes; their amounts must be in the currency of the contract."""
        self.changes = ChangesRecord(before=_values_record(before), after=_values_record(after))

    @property
    def effect(self) -> AmendmentEffect:
        """The effect of the amendment on the fees."""
        return _effect(self.proration, self.currency_code)

    def set_effect(self, effect: AmendmentEffect) -> None:
        """Store the effect on the fees."""
        self.proration = _effect_record(effect)


def _values_record(values: TermValues) -> JsonObject:
    return {name: _TO_JSON[type(value)](value) if type(value) in _TO_JSON else value for name, value in values.items()}


def _phases_record(phases: tuple[Phase, ...]) -> Any:
    return [{"start_date": phase.start_date.isoformat(), "fee": f"{phase.fee.amount:f}"} for phase in phases]


def _sla_record(sla: SlaTerms) -> JsonObject:
    return {"uptime_bp": sla.uptime_bp, "response_hours": sla.response_hours, "credit_bp": sla.credit_bp}


_TO_JSON: Final[Mapping[type, Callable[[Any], Any]]] = {
    Money: lambda money: f"{money.amount:f}",
    date: date.isoformat,
    tuple: _phases_record,
    SlaTerms: _sla_record,
}
"""Encoders of the types that JSON does not have."""


def _values(record: JsonObject, currency: str) -> TermValues:
    def money(text: str) -> Money:
        return Money(Decimal(text), currency)

    def phases(records: list[JsonObject]) -> tuple[Phase, ...]:
        return tuple(Phase(date.fromisoformat(each["start_date"]), money(each["fee"])) for each in records)

    decoders: Mapping[str, Callable[[Any], Any]] = {
        "fee": money,
        "phases": phases,
        "end_date": date.fromisoformat,
        "minimum_commitment": money,
        "purchase_order_limit": money,
        "sla_terms": lambda sla: SlaTerms(**sla),
    }
    return {
        name: decoders[name](value) if name in decoders and value is not None else value
        for name, value in record.items()
    }


def _effect_record(effect: AmendmentEffect) -> JsonObject:
    return {
        **_dates_record(effect.period),
        "old_part": f"{effect.old_part.amount:f}",
        "new_part": f"{effect.new_part.amount:f}",
        "old_total": f"{effect.old_total.amount:f}",
        "new_total": f"{effect.new_total.amount:f}",
        "fees": [
            {
                "number": fee.number,
                **_dates_record(fee.dates),
                "old": f"{fee.old.amount:f}",
                "new": f"{fee.new.amount:f}",
            }
            for fee in effect.fees
        ],
    }


def _dates_record(dates: DateRange) -> JsonObject:
    return {"start_date": dates.start.isoformat(), "end_date": dates.end.isoformat()}


def _effect(record: JsonObject, currency: str) -> AmendmentEffect:
    def money(text: str) -> Money:
        return Money(Decimal(text), currency)

    return AmendmentEffect(
        period=_dates(record),
        old_part=money(record["old_part"]),
        new_part=money(record["new_part"]),
        fees=tuple(
            AmendedFee(fee["number"], _dates(fee), money(fee["old"]), money(fee["new"])) for fee in record["fees"]
        ),
        old_total=money(record["old_total"]),
        new_total=money(record["new_total"]),
    )


def _dates(record: JsonObject) -> DateRange:
    return DateRange(date.fromisoformat(record["start_date"]), date.fromisoformat(record["end_date"]))
