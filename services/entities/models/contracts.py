"""Tables of contracts, their signatures and notices."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TypedDict
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, Date, DateTime, Integer, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from kit import ids
from kit.db import AMOUNT, Base, TenantRow, VersionedRow, text_enum
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
    SignatureDraft,
    SlaTerms,
)
from services.entities.domain.purchase_orders import PurchaseOrderUse


class PhaseRecord(TypedDict):
    """A phase as stored in JSON; the fee is an exact decimal text in the currency of the contract."""

    start_date: str
    fee: str


class SlaRecord(TypedDict):
    """SLA terms as stored in JSON."""

    uptime_bp: int
    response_hours: int
    credit_bp: int


class ContractRow(VersionedRow):
    """A contract of an entity with a counterparty."""

    __tablename__ = "billing_contracts"
    audited_as = ids.CONTRACT

    entity_id: Mapped[UUID] = mapped_column(Uuid)
    contract_number: Mapped[str] = mapped_column(String)
    name: Mapped[str] = mapped_column(String)
    contract_type: Mapped[ContractType] = mapped_column(text_enum(ContractType))
    start_date: Mapped[date] = mapped_column(Date)
    end_date: Mapped[date | None] = mapped_column(Date)
    """The day after the last day; None: evergreen."""
    anchor_day: Mapped[int | None] = mapped_column(Integer)
    """Day of the month that billing periods and renewals count from; None: that of the start date."""
    total_value: Mapped[Decimal] = mapped_column(AMOUNT)
    currency_code: Mapped[str] = mapped_column(String(3))
    billing_frequency: Mapped[BillingFrequency] = mapped_column(text_enum(BillingFrequency))
    phases: Mapped[list[PhaseRecord]] = mapped_column(JSONB)
    remainders: Mapped[dict[str, str]] = mapped_column(JSONB)
    """By the number of the billing period; exact decimal texts in the currency of the contract."""
    former_ends: Mapped[list[date]] = mapped_column(ARRAY(Date))
    """Earlier end dates within billing periods that had begun when the contract was extended."""
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
    """The newest successor, even if it was withdrawn."""
    license_state: Mapped[LicenseState] = mapped_column(text_enum(LicenseState), default=LicenseState.NONE)
    license_id: Mapped[str] = mapped_column(String, default="")
    license_problem: Mapped[str] = mapped_column(String, default="")
    state: Mapped[ContractState] = mapped_column(text_enum(ContractState))
    approval_problem: Mapped[str] = mapped_column(String, default="")
    """Why no approval could be requested at the last submission, or why its outcome is not recorded yet."""
    activate_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    suspend_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    suspension_reason: Mapped[str] = mapped_column(String, default="")
    termination_date: Mapped[date | None] = mapped_column(Date)
    """The first day on which the contract is no longer in force, if it was terminated."""
    termination_reason: Mapped[str] = mapped_column(String, default="")
    terminated_for_cause: Mapped[bool] = mapped_column(Boolean, default=False)

    @property
    def terms(self) -> ContractTerms:
        """The terms as a domain value."""
        return ContractTerms(
            contract_number=self.contract_number,
            name=self.name,
            contract_type=self.contract_type,
            start_date=self.start_date,
            end_date=self.end_date,
            anchor_day=self.anchor_day,
            remainders=tuple((int(number), self.money(Decimal(text))) for number, text in self.remainders.items()),
            former_ends=tuple(self.former_ends),
            total_value=self.money(self.total_value),
            billing_frequency=self.billing_frequency,
            phases=tuple(
                Phase(date.fromisoformat(record["start_date"]), self.money(Decimal(record["fee"])))
                for record in self.phases
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

    def set_terms(self, terms: ContractTerms) -> None:
        """Copy the terms into their columns. Raises ValueError if the payment terms are not known yet."""
        if terms.payment_terms_days is None:
            raise ValueError("payment_terms_days must be taken from the entity first")
        commitment, limit, sla = terms.minimum_commitment, terms.purchase_order_limit, terms.sla_terms
        self.contract_number = terms.contract_number
        self.name = terms.name
        self.contract_type = terms.contract_type
        self.start_date = terms.start_date
        self.end_date = terms.end_date
        self.anchor_day = terms.anchor_day
        self.total_value = terms.total_value.amount
        self.currency_code = terms.total_value.currency
        self.billing_frequency = terms.billing_frequency
        self.phases = [
            PhaseRecord(start_date=phase.start_date.isoformat(), fee=f"{phase.fee.amount:f}") for phase in terms.phases
        ]
        self.remainders = {str(number): f"{money.amount:f}" for number, money in terms.remainders}
        self.former_ends = list(terms.former_ends)
        self.minimum_commitment = commitment.amount if commitment else None
        self.license_tier = terms.license_tier
        self.seats = terms.seats
        self.payment_terms_days = terms.payment_terms_days
        self.purchase_order_number = terms.purchase_order_number
        self.purchase_order_limit = limit.amount if limit else None
        self.auto_renew = terms.auto_renew
        self.renewal_term_months = terms.renewal_term_months
        self.renewal_notice_days = terms.renewal_notice_days
        self.renewal_uplift_bp = terms.renewal_uplift_bp
        self.sla_terms = (
            SlaRecord(uptime_bp=sla.uptime_bp, response_hours=sla.response_hours, credit_bp=sla.credit_bp)
            if sla
            else None
        )

    def money(self, amount: Decimal) -> Money:
        """Return the amount in the currency of the contract."""
        return Money(amount, self.currency_code)


class SignatureRow(TenantRow):
    """A signature under a contract. Rows are never changed."""

    __tablename__ = "contract_signatures"
    audited_as = "contract_signature"

    contract_id: Mapped[UUID] = mapped_column(Uuid)
    party: Mapped[Party] = mapped_column(text_enum(Party))
    signer_name: Mapped[str] = mapped_column(String)
    signer_title: Mapped[str] = mapped_column(String)
    document_digest: Mapped[str] = mapped_column(String)
    """SHA-256 of the signed document, 64 hexadecimal digits."""
    recorded_by: Mapped[str] = mapped_column(String)

    @classmethod
    def of_draft(cls, contract_id: UUID, draft: SignatureDraft, recorded_by: str) -> "SignatureRow":
        """Return the row of a signature to be recorded."""
        return cls(
            contract_id=contract_id,
            party=draft.party,
            signer_name=draft.signer_name,
            signer_title=draft.signer_title,
            document_digest=draft.document_digest,
            recorded_by=recorded_by,
        )


class NoticeRow(TenantRow):
    """A published notice about the end of a contract, unique per end date and kind. Rows are never changed."""

    __tablename__ = "contract_notices"

    contract_id: Mapped[UUID] = mapped_column(Uuid)
    end_date: Mapped[date] = mapped_column(Date)
    kind: Mapped[NoticeKind] = mapped_column(text_enum(NoticeKind))


class ContractNumberRow(Base):
    """The last contract number that was assigned to a tenant in a year."""

    __tablename__ = "contract_numbers"

    tenant_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    year: Mapped[int] = mapped_column(Integer, primary_key=True)
    last_number: Mapped[int] = mapped_column(Integer)


@dataclass(frozen=True, slots=True)
class ContractDetails:
    """Data that is shown with a contract, but not stored in its row."""

    signatures: Sequence[SignatureRow] = ()
    purchase_order_use: PurchaseOrderUse | None = None
