"""Conversion of period locks."""

from billing.budgets.v1 import period_lock_service_pb2 as pb
from billing.budgets.v1.period_lock_pb2 import PeriodLock

from contract.values import required_date, time_to_proto
from kit import ids
from services.budgets.domain.period_locks import PeriodLockDraft
from services.budgets.models.period_locks import PeriodLockRow


def draft_from_proto(request: pb.SetPeriodLockRequest) -> PeriodLockDraft:
    """Parse SetPeriodLockRequest."""
    return PeriodLockDraft(
        entity_id=ids.ENTITY.parse_optional(request.entity_id, "entity_id"),
        locked_until=required_date(request.locked_until_date),
        reason=request.reason,
    )


def to_proto(row: PeriodLockRow) -> PeriodLock:
    """Convert a period lock."""
    return PeriodLock(
        entity_id=ids.ENTITY.format_optional(row.entity_id),
        locked_until_date=row.locked_until.isoformat(),
        reason=row.reason,
        actor=row.actor,
        create_time=time_to_proto(row.create_time),
        update_time=time_to_proto(row.update_time),
    )
