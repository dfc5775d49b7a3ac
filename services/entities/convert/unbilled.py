"""Conversion of what no invoice has taken."""

from uuid import UUID

import orjson
from billing.entities.v1 import invoice_statement_service_pb2 as pb
from billing.entities.v1.statement_pb2 import UnbilledItem as UnbilledItemMessage
from billing.entities.v1.statement_pb2 import UnbilledTotal as UnbilledTotalMessage

from contract.values import date_from_text, money_to_proto
from kit import ids
from services.entities.domain.unbilled import CostPosition, UnbilledItem, UnbilledQuery, UnbilledTotal


def query_from_proto(request: pb.ListUnbilledRequest, position: bytes, limit: int) -> UnbilledQuery:
    """Parse ListUnbilledRequest. `position` is that of `position_of` for the last item of the previous page."""
    return UnbilledQuery(
        entity_id=ids.ENTITY.parse(request.id),
        include_descendants=request.include_descendants,
        as_of=date_from_text(request.as_of_date),
        after=_position(position) if position else None,
        limit=limit,
    )


def _position(encoded: bytes) -> CostPosition | UUID:
    first, *others = orjson.loads(encoded)
    if not others:
        return UUID(first)
    department, gl_code, currency = others
    return CostPosition(UUID(first), UUID(department), gl_code, currency)


def position_of(item: UnbilledItem) -> bytes:
    """Return the position of an item in the list, for a page token."""
    position = item.position
    return orjson.dumps([str(each) for each in ([position] if isinstance(position, UUID) else position)])


def item_to_proto(item: UnbilledItem, entity_code: str) -> UnbilledItemMessage:
    """Convert an item of an entity with this code."""
    return UnbilledItemMessage(
        kind=UnbilledItemMessage.Kind.Value(item.kind),
        entity_id=ids.ENTITY.format(item.entity_id),
        entity_code=entity_code,
        department_id=ids.DEPARTMENT.format_optional(item.department_id),
        gl_code=item.gl_code,
        contract_id=ids.CONTRACT.format_optional(item.contract_id),
        contract_number=item.contract_number,
        amount=money_to_proto(item.amount),
        item_count=item.item_count,
        first_date=item.first_date.isoformat(),
        last_date=item.last_date.isoformat(),
    )


def total_to_proto(total: UnbilledTotal) -> UnbilledTotalMessage:
    """Convert the totals of a currency."""
    return UnbilledTotalMessage(
        currency_code=total.currency,
        allocated=money_to_proto(total.allocated.amount),
        allocation_count=total.allocated.count,
        fees=money_to_proto(total.fees.amount),
        fee_count=total.fees.count,
        total=money_to_proto(total.allocated.amount + total.fees.amount),
    )
