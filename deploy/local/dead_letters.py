"""List, redrive and drop the dead letters of a tenant in all services of the running stack."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from billing.operations.v1.operations_service_pb2 import (
    DeadLetter,
    DropDeadLetterRequest,
    ListDeadLettersRequest,
    RedriveDeadLetterRequest,
)
from billing.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from grpc import aio

from deploy.local import keys
from deploy.local.processes import GATEWAY, PROCESSES, Layout, port_name

ALL: Final = "all"
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations of one service, for one tenant."""

    service: str
    stub: OperationsServiceStub
    metadata: tuple[tuple[str, str], ...]

    async def letters(self) -> AsyncIterator[DeadLetter]:
        """Yield all dead letters, oldest first."""
        request = ListDeadLettersRequest(page_size=1000)
        while True:
            page = await self.stub.ListDeadLetters(request, metadata=self.metadata, timeout=_TIMEOUT_S)
            for letter in page.dead_letters:
                yield letter
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def redrive(self, letter: DeadLetter) -> str:
        """Deliver the letter again; return the result as a word, with the error if it failed."""
        request = RedriveDeadLetterRequest(consumer=letter.consumer, event_id=letter.event_id)
        try:
            await self.stub.RedriveDeadLetter(request, metadata=self.metadata, timeout=_TIMEOUT_S)
        except aio.AioRpcError as error:
            return f"failed again: {error.details()}"
        return "redriven"

    async def drop(self, letter: DeadLetter) -> str:
        """Remove the letter; return the result as a word, with the error if it failed."""
        request = DropDeadLetterRequest(consumer=letter.consumer, event_id=letter.event_id)
        try:
            await self.stub.DropDeadLetter(request, metadata=self.metadata, timeout=_TIMEOUT_S)
        except aio.AioRpcError as error:
            return f"failed: {error.details()}"
        return "dropped"


async def run(layout: Layout, *, tenant: str, redrive: str, drop: str) -> Sequence[str]:
    """Redrive and drop the letters with these event ids (or ALL), and return a line for each letter.

    Raises RuntimeError if there is no letter with such an id.
    """
    metadata = (("authorization", f"Bearer {keys.token(tenant=tenant)}"),)
    lines: list[str] = []
    handled: set[str] = set()
    for process in PROCESSES:
        if process.name == GATEWAY:
            continue
        async with aio.insecure_channel(f"127.0.0.1:{layout.ports[port_name(process.name)]}") as channel:
            operations = Operations(process.name, OperationsServiceStub(channel), metadata)
            for letter in [letter async for letter in operations.letters()]:
                result = ""
                if redrive in {ALL, letter.event_id}:
                    result = await operations.redrive(letter)
                elif drop in {ALL, letter.event_id}:
                    result = await operations.drop(letter)
                handled |= {letter.event_id} if result else set()
                lines.append(_line(letter, result))
    missing = {redrive, drop} - {"", ALL} - handled
    if missing:
        raise RuntimeError(f"there is no dead letter of tenant {tenant} with the event id {min(missing)}")
    return lines


def _line(letter: DeadLetter, result: str) -> str:
    time = letter.create_time.ToDatetime().isoformat(timespec="seconds")
    text = f"{time}Z {letter.event_id} {letter.consumer} {result or letter.error}"
    return text if result else f"{text}\n    {letter.body}"
