"""gRPC servicer of the holds of disputes on lines of invoices."""

from billing.entities.v1 import line_hold_service_pb2 as pb

from kit.db import Database
from kit.origin import Call
from services.entities import convert, service


class LineHoldServicer:
    """billing.entities.v1.LineHoldService."""

    service = pb.DESCRIPTOR.services_by_name["LineHoldService"]

    def __init__(self, db: Database) -> None:
        self._db = db

    async def HoldLines(self, request: pb.HoldLinesRequest, call: Call) -> pb.LineHolds:
        hold = convert.line_holds.request_from_proto(request)
        async with self._db.write(call) as tx:
            return await tx.answer(convert.line_holds.to_proto(await service.line_holds.hold(tx, hold)))

    async def ReleaseLines(self, request: pb.ReleaseLinesRequest, call: Call) -> pb.LineHolds:
        release = convert.line_holds.request_from_proto(request)
        async with self._db.write(call) as tx:
            return await tx.answer(convert.line_holds.to_proto(await service.line_holds.release(tx, release)))
