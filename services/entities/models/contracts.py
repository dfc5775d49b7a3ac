"""Contracts, who signed them, and what their parties were told."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypedDict
from uuid import UUID

from sqlalchemy import Boolean, Date, DateTime, Integer, Numeric, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import Base, TenantRow, VersionedRow, text_enum
from kit.money import Money
from services.entities.domain.contracts import (
    BillingFrequency,
    ContractState,
    ContractTerms,
    ContractType,
    LicenseState,
    NoticeKind,
    Party,
    Phase,
    SlaTerms,
)

AMOUNT: Final = Numeric(20, 6)


class PhaseRecord(TypedDict):
    """A phase, as it is kept; the fee is exact, in the currency of the contract."""

    start_date: str
    fee: str


class SlaRecord(TypedDict):
    """SLA terms, as they are kept."""

    uptime_bp: int
    response_hours: int
    credit_bp: int


class ContractRow(VersionedRow):
    """What an entity agreed with somebody."""

    __tablename__ = "billing_contracts"
    audited_as = ids.CONTRACT

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    contract_number: Mapped[str] = mapped_column(String)
    name: Mapped[str] = mapped_column(String)
    contract_type: Mapped[ContractType] = mapped_column(text_enum(ContractType))
    start_date: Mapped[date] = mapped_column(Date)
    end_date: Mapped[date | None] = mapped_column(Date)
    """The day after the last one; None: evergreen."""
    total_value: Mapped[Decimal] = mapped_column(AMOUNT)
    currency_code: Mapped[str] = mapped_column(String(3))
    billing_frequency: Mapped[BillingFrequency] = mapped_column(text_enum(BillingFrequency))
    phases: Mapped[list[PhaseRecord]] = mapped_column(JSONB)
    minimum_commitment: Mapped[Decimal | None] = mapped_column(AMOUNT)
    license_tier: Mapped[str] = mapped_column(String)
    seats: Mapped[int] = mapped_column(Integer)
    payment_terms_days: Mapped[int] = mapped_column(Integer)
    purchase_order_number: Mapped[str] = mapped_column(String)
    purchase_order_limit: Mapped[Decimal | None] = mapped_column(AMOUNT)
    auto_renew: Mapped[bool] = mapped_column(Boolean)
    renewal_term_months: Mapped[int] = mapped_column(Integer)
    renewal_notice_days: Mapped[int] = mapped_column(Integer)
    renewal_uplift_bp: Mapped[int] = mapped_column(Integer)
    sla_terms: Mapped[SlaRecord | None] = mapped_column(JSONB(none_as_null=True))
    renewed_from_id: Mapped[UUID | None] = mapped_column(Uuid)
    renewed_to_id: Mapped[UUID | None] = mapped_column(Uuid)
    """The newest successor; it may have been withdrawn."""
    license_state: Mapped[LicenseState] = mapped_column(text_enum(LicenseState), default=LicenseState.NONE)
    license_id: Mapped[str] = mapped_column(String, default="")
    license_problem: Mapped[str] = mapped_column(String, default="")
    state: Mapped[ContractState] = mapped_column(text_enum(ContractState))
    activate_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    suspend_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    suspension_reason: Mapped[str] = mapped_column(String, default="")
    termination_date: Mapped[date | None] = mapped_column(Date)
    """The first day on which it does not hold any more; until then it is in force."""
    termination_reason: Mapped[str] = mapped_column(String, default="")
    terminated_for_cause: Mapped[bool] = mapped_column(Boolean, default=False)

    @property
    def terms(self) -> ContractTerms:
        """What the parties agreed on."""
        return ContractTerms(
            contract_number=self.contract_number,
            name=self.name,
            contract_type=self.contract_type,
            start_date=self.start_date,
            end_date=self.end_date,
            total_value=self.money(self.total_value),
            billing_frequency=self.billing_frequency,
            phases=tuple(
                Phase(date.fromisoformat(kept["start_date"]), self.money(Decimal(kept["fee"]))) for kept in self.phases
            ),
            minimum_commitment=None if self.minimum_commitment is None else self.money(self.minimum_commitment),
            license_tier=self.license_tier,
            seats=self.seats,
            payment_terms_days=self.payment_terms_days,
            purchase_order_number=self.purchase_order_number,
            purchase_order_limit=None if self.purchase_order_limit is None else self.money(self.purchase_order_limit),
            auto_renew=self.auto_renew,
            renewal_term_months=self.renewal_term_months,
            renewal_notice_days=self.renewal_notice_days,
            renewal_uplift_bp=self.renewal_uplift_bp,
            sla_terms=SlaTerms(**self.sla_terms) if self.sla_terms else None,
        )

    def money(self, amount: Decimal) -> Money:
        """An amount in the currency of the contract."""
        return Money(amount, self.currency_code)


def columns_of(terms: ContractTerms) -> Mapping[str, Any]:
    """The columns that say what the parties agreed on; all amounts are in the currency of the total value."""
    commitment, limit, sla = terms.minimum_commitment, terms.purchase_order_limit, terms.sla_terms
    return {
        "contract_number": terms.contract_number,
        "name": terms.name,
        "contract_type": terms.contract_type,
        "start_date": terms.start_date,
        "end_date": terms.end_date,
        "total_value": terms.total_value.amount,
        "currency_code": terms.total_value.currency,
        "billing_frequency": terms.billing_frequency,
        "phases": [
            PhaseRecord(start_date=phase.start_date.isoformat(), fee=f"{phase.fee.amount:f}") for phase in terms.phases
        ],
        "minimum_commitment": commitment.amount if commitment else None,
        "license_tier": terms.license_tier,
        "seats": terms.seats,
        "payment_terms_days": terms.payment_terms_days,
        "purchase_order_number": terms.purchase_order_number,
        "purchase_order_limit": limit.amount if limit else None,
        "auto_renew": terms.auto_renew,
        "renewal_term_months": terms.renewal_term_months,
        "renewal_notice_days": terms.renewal_notice_days,
        "renewal_uplift_bp": terms.renewal_uplift_bp,
        "sla_terms": SlaRecord(
            uptime_bp=sla.uptime_bp, response_hours=sla.response_hours, credit_bp=sla.credit_bp
        ) if sla else None,
    }  # fmt: skip


class SignatureRow(TenantRow):
    """That a party signed a contract; never changed."""

    __tablename__ = "contract_signatures"
    audited_as = "contract_signature"

    contract_id: Mapped[UUID] = mapped_column(Uuid)
    party: Mapped[Party] = mapped_column(text_enum(Party))
    signer_name: Mapped[str] = mapped_column(String)
    signer_title: Mapped[str] = mapped_column(String)
    document_digest: Mapped[str] = mapped_column(String)
    """SHA-256, 64 hexadecimal digits."""
    recorded_by: Mapped[str] = mapped_column(String)


class NoticeRow(TenantRow):
    """That the parties were told of an end; once for each end and kind, and never changed."""

    __tablename__ = "contract_notices"

    contract_id: Mapped[UUID] = mapped_column(Uuid)
    end_date: Mapped[date] = mapped_column(Date)
    kind: Mapped[NoticeKind] = mapped_column(text_enum(NoticeKind))


class ContractNumberRow(Base):
    """The last number of a tenant's own that a contract of a year got."""

    __tablename__ = "contract_numbers"

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    year: Mapped[int] = mapped_column(Integer, primary_key=True)
    last_number: Mapped[int] = mapped_column(Integer)
