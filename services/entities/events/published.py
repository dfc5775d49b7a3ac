"""Builders of the events that the entities service publishes."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from billing.entities.v1.events_pb2 import (
    AllocationCredited,
    AllocationReversed,
    AmendmentRejected,
    AmendmentSubmitted,
    ContractActivated,
    ContractAmended,
    ContractExpired,
    ContractRenewalDue,
    ContractRenewed,
    ContractResumed,
    ContractSubmitted,
    ContractSuspended,
    ContractTerminated,
    ContractWithdrawn,
    CostAllocated,
    DepartmentManagerChanged,
    DepartmentMoved,
    EntityCreated,
    EntityDeactivated,
    EntityMoved,
    ExchangeRatesChanged,
    InvoiceDrafted,
    InvoiceIssued,
    InvoiceRunCompleted,
    InvoiceRunFailed,
    InvoiceVoided,
    PurchaseOrderLimitReached,
)
from billing.entities.v1.exchange_rate_pb2 import CurrencyPair
from billing.entities.v1.invoice_schedule_pb2 import InvoiceRunProblem

from contract.values import date_text, money_to_proto, time_to_proto
from kit import ids
from services.entities import domain
from services.entities.domain.approval_needs import ApprovalNeed
from services.entities.domain.contracts import ContractTerms
from services.entities.domain.purchase_orders import PurchaseOrderUse
from services.entities.models.allocations import AllocationRow
from services.entities.models.amendments import AmendmentRow
from services.entities.models.contracts import ContractRow
from services.entities.models.entities import DepartmentRow, EntityRow
from services.entities.models.invoice_schedules import InvoiceRunRow
from services.entities.models.invoices import InvoiceRow
from services.entities.models.rates import ExchangeRateRow


def entity_created(entity: EntityRow) -> EntityCreated:
    """Return the event that an entity was created."""
    return EntityCreated(
        entity_id=ids.ENTITY.format(entity.id),
        parent_id=ids.ENTITY.format_optional(entity.parent_id),
        code=entity.code,
        currency_code=entity.currency_code,
    )


def entity_deactivated(entity: EntityRow) -> EntityDeactivated:
    """Return the event that an entity was deactivated."""
    return EntityDeactivated(entity_id=ids.ENTITY.format(entity.id))


def entity_moved(entity: EntityRow, old_parent_id: UUID | None) -> EntityMoved:
    """Return the event that an entity has another parent, or became a root."""
    return EntityMoved(
        entity_id=ids.ENTITY.format(entity.id),
        old_parent_id=ids.ENTITY.format_optional(old_parent_id),
        new_parent_id=ids.ENTITY.format_optional(entity.parent_id),
    )


def department_moved(department: DepartmentRow, old_parent_id: UUID | None, since: date) -> DepartmentMoved:
    """Return the event that a department has another parent in the current tree."""
    return DepartmentMoved(
        department_id=ids.DEPARTMENT.format(department.id),
        entity_id=ids.ENTITY.format(department.entity_id),
        old_parent_id=ids.DEPARTMENT.format_optional(old_parent_id),
        new_parent_id=ids.DEPARTMENT.format_optional(department.parent_id),
        effective_date=since.isoformat(),
    )


def department_manager_changed(department: DepartmentRow, old_manager_user_id: str) -> DepartmentManagerChanged:
    """Return the event that a department has another manager, or none."""
    return DepartmentManagerChanged(
        department_id=ids.DEPARTMENT.format(department.id),
        entity_id=ids.ENTITY.format(department.entity_id),
        old_manager_user_id=old_manager_user_id,
        new_manager_user_id=department.manager_user_id,
    )


def exchange_rates_changed(changed: Sequence[ExchangeRateRow]) -> ExchangeRatesChanged:
    """Return the event that these exchange rates, one or more, were created or replaced."""
    pairs = sorted({(row.base_currency, row.quote_currency) for row in changed})
    return ExchangeRatesChanged(
        pairs=[CurrencyPair(base_currency=base, quote_currency=quote) for base, quote in pairs],
        earliest_date=min(row.effective_date for row in changed).isoformat(),
    )


def cost_allocated(row: AllocationRow, entity_path: Sequence[UUID]) -> CostAllocated:
    """Return the event that a cost was allocated; `entity_path` leads from the root down to its entity."""
    return CostAllocated(
        allocation_id=ids.ALLOCATION.format(row.id),
        entity_id=ids.ENTITY.format(row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(row.department_id),
        department_path=map(ids.DEPARTMENT.format, row.department_path),
        entity_path=map(ids.ENTITY.format, entity_path),
        category=row.category,
        gl_code=row.gl_code,
        amount=money_to_proto(row.money),
        allocation_date=row.allocation_date.isoformat(),
        source=row.source,
        source_ref=row.source_ref,
        description=row.description,
    )


def allocation_reversed(reversal: AllocationRow, reversed_row: AllocationRow) -> AllocationReversed:
    """Return the event that an allocation was reversed."""
    return AllocationReversed(
        allocation_id=ids.ALLOCATION.format(reversal.id),
        reversed_allocation_id=ids.ALLOCATION.format(reversed_row.id),
        entity_id=ids.ENTITY.format(reversed_row.entity_id),
        department_id=ids.DEPARTMENT.format_optional(reversed_row.department_id),
        amount=money_to_proto(-reversal.money),
        allocation_date=reversal.allocation_date.isoformat(),
        reason=reversal.description,
    )


def allocation_credited(credit: AllocationRow, credited_row: AllocationRow) -> AllocationCredited:
    """Return the event that a part of an allocation was credited."""
    return AllocationCredited(
        allocation_id=ids.ALLOCATION.format(credit.id),
        credited_allocation_id=ids.ALLOCATION.format(credited_row.id),
        entity_id=ids.ENTITY.format(credit.entity_id),
        department_id=ids.DEPARTMENT.format_optional(credit.department_id),
        amount=money_to_proto(-credit.money),
        allocation_date=credit.allocation_date.isoformat(),
        source_ref=credit.source_ref,
        reason=credit.description,
    )


def contract_submitted(contract: ContractRow, need: ApprovalNeed, submitted_by: str) -> ContractSubmitted:
    """Return the event that a contract awaits approval."""
    return ContractSubmitted(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        name=contract.name,
        contract_type=contract.contract_type,
        total_value=money_to_proto(need.amount),
        attributes=need.attributes,
        submission=contract.version,
        submitted_by=submitted_by,
    )


def amendment_submitted(
    contract: ContractRow, amendment: AmendmentRow, need: ApprovalNeed, submitted_by: str
) -> AmendmentSubmitted:
    """Return the event that an amendment awaits approval."""
    return AmendmentSubmitted(
        amendment_id=ids.AMENDMENT.format(amendment.id),
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        number=amendment.number,
        amendment_type=amendment.amendment_type,
        contract_type=contract.contract_type,
        total_value=money_to_proto(need.amount),
        old_total_value=money_to_proto(amendment.effect.old_total),
        new_total_value=money_to_proto(amendment.effect.new_total),
        attributes=need.attributes,
        reason=amendment.reason,
        submitted_by=submitted_by,
    )


def contract_withdrawn(contract: ContractRow) -> ContractWithdrawn:
    """Return the event that a contract no longer awaits approval, since it was withdrawn."""
    return ContractWithdrawn(
        contract_id=ids.CONTRACT.format(contract.id), entity_id=ids.ENTITY.format(contract.entity_id)
    )


def contract_activated(contract: ContractRow) -> ContractActivated:
    """Return the event that a contract was activated."""
    return ContractActivated(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        contract_type=contract.contract_type,
        license_tier=contract.license_tier,
        seats=contract.seats,
        start_date=contract.start_date.isoformat(),
        end_date=date_text(contract.end_date),
        total_value=money_to_proto(contract.money(contract.total_value)),
        renewed_from_id=ids.CONTRACT.format_optional(contract.renewed_from_id),
    )


def contract_renewal_due(contract: ContractRow, end: date, renewal: ContractTerms) -> ContractRenewalDue:
    """Return the event that the end of a contract is near; `renewal` has the terms of a renewal as agreed."""
    return ContractRenewalDue(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        end_date=end.isoformat(),
        notice_date=domain.contracts.notice_date(end, contract.renewal_notice_days).isoformat(),
        auto_renew=domain.contracts.renews_automatically(contract.terms, contract.state, contract.termination_date),
        renewal_value=money_to_proto(renewal.total_value),
    )


def contract_renewed(contract: ContractRow, successor: ContractRow, *, automatic: bool) -> ContractRenewed:
    """Return the event that a contract ended and its successor took over."""
    return ContractRenewed(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        renewed_to_id=ids.CONTRACT.format(successor.id),
        automatic=automatic,
    )


def contract_suspended(contract: ContractRow) -> ContractSuspended:
    """Return the event that a contract was suspended."""
    return ContractSuspended(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        reason=contract.suspension_reason,
    )


def contract_resumed(contract: ContractRow) -> ContractResumed:
    """Return the event that the suspension of a contract ended."""
    return ContractResumed(
        contract_id=ids.CONTRACT.format(contract.id), entity_id=ids.ENTITY.format(contract.entity_id)
    )


def contract_terminated(contract: ContractRow, day: date) -> ContractTerminated:
    """Return the event that a contract is terminated from `day` on."""
    return ContractTerminated(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        termination_date=day.isoformat(),
        reason=contract.termination_reason,
        for_cause=contract.terminated_for_cause,
    )


def contract_expired(contract: ContractRow, end: date) -> ContractExpired:
    """Return the event that a contract ended without a renewal."""
    return ContractExpired(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        end_date=end.isoformat(),
    )


def contract_amended(contract: ContractRow, amendment: AmendmentRow) -> ContractAmended:
    """Return the event that an amendment was applied."""
    terms, effect = contract.terms, amendment.effect
    return ContractAmended(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        amendment_id=ids.AMENDMENT.format(amendment.id),
        number=amendment.number,
        amendment_type=amendment.amendment_type,
        effective_date=amendment.effective_date.isoformat(),
        changed=sorted(name for name, value in amendment.after.items() if amendment.before[name] != value),
        license_tier=contract.license_tier,
        seats=contract.seats,
        fee=money_to_proto(domain.fees.fee_on(domain.fees.build_plan(terms), amendment.effective_date)),
        prorated_difference=money_to_proto(effect.new_part - effect.old_part),
        end_date=date_text(contract.end_date),
        total_value=money_to_proto(terms.total_value),
    )


def amendment_rejected(contract: ContractRow, amendment: AmendmentRow) -> AmendmentRejected:
    """Return the event that an amendment was rejected."""
    return AmendmentRejected(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        amendment_id=ids.AMENDMENT.format(amendment.id),
        reason=amendment.rejection_reason,
    )


def purchase_order_limit_reached(
    contract: ContractRow, use: PurchaseOrderUse, threshold_bp: int
) -> PurchaseOrderLimitReached:
    """Return the event that the fees of a contract have reached a threshold of its purchase order."""
    return PurchaseOrderLimitReached(
        contract_id=ids.CONTRACT.format(contract.id),
        entity_id=ids.ENTITY.format(contract.entity_id),
        contract_number=contract.contract_number,
        purchase_order_number=contract.purchase_order_number,
        purchase_order_limit=money_to_proto(use.used + use.remaining),
        used=money_to_proto(use.used),
        threshold_bp=threshold_bp,
        exceed_date=date_text(use.exceed_date),
    )


def invoice_drafted(invoice: InvoiceRow) -> InvoiceDrafted:
    """Return the event that the draft of an invoice was created."""
    return InvoiceDrafted(
        invoice_id=ids.INVOICE.format(invoice.id),
        entity_id=ids.ENTITY.format(invoice.entity_id),
        period_start_date=invoice.period_start.isoformat(),
        period_end_date=invoice.period_end.isoformat(),
        total=money_to_proto(invoice.money(invoice.total)),
    )


def invoice_issued(invoice: InvoiceRow) -> InvoiceIssued:
    """Return the event that an invoice was issued."""
    return InvoiceIssued(
        invoice_id=ids.INVOICE.format(invoice.id),
        type=invoice.type,
        number=invoice.number,
        entity_id=ids.ENTITY.format(invoice.entity_id),
        billing_profile_id=ids.BILLING_PROFILE.format(invoice.billing_profile_id),
        period_start_date=invoice.period_start.isoformat(),
        period_end_date=invoice.period_end.isoformat(),
        net=money_to_proto(invoice.money(invoice.net)),
        tax=money_to_proto(invoice.money(invoice.tax)),
        total=money_to_proto(invoice.money(invoice.total)),
        issue_date=date_text(invoice.issue_date),
        due_date=date_text(invoice.due_date),
    )


def invoice_voided(invoice: InvoiceRow) -> InvoiceVoided:
    """Return the event that an invoice was withdrawn."""
    return InvoiceVoided(
        invoice_id=ids.INVOICE.format(invoice.id),
        number=invoice.number,
        entity_id=ids.ENTITY.format(invoice.entity_id),
        reason=invoice.void_reason,
    )


def invoice_run_completed(run: InvoiceRunRow) -> InvoiceRunCompleted:
    """Return the event that a run made its invoice, or found nothing to bill."""
    return InvoiceRunCompleted(
        run_id=ids.INVOICE_RUN.format(run.id),
        schedule_id=ids.INVOICE_SCHEDULE.format(run.schedule_id),
        entity_id=ids.ENTITY.format(run.entity_id),
        period_start_date=run.period_start.isoformat(),
        period_end_date=run.period_end.isoformat(),
        invoice_id=ids.INVOICE.format_optional(run.invoice_id),
        invoice_number=run.invoice_number,
    )


def invoice_run_failed(run: InvoiceRunRow) -> InvoiceRunFailed:
    """Return the event that a run could not make or issue its invoice."""
    return InvoiceRunFailed(
        run_id=ids.INVOICE_RUN.format(run.id),
        schedule_id=ids.INVOICE_SCHEDULE.format(run.schedule_id),
        entity_id=ids.ENTITY.format(run.entity_id),
        period_start_date=run.period_start.isoformat(),
        period_end_date=run.period_end.isoformat(),
        problems=[InvoiceRunProblem(reason=each.reason, message=each.message) for each in run.problems],
        invoice_id=ids.INVOICE.format_optional(run.invoice_id),
        retry_time=time_to_proto(run.retry_time) if run.retry_time else None,
    )
